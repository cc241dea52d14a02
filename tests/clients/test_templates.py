"""Texts of several columns: Alpaca's template, one of the user's own."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clients.data import Corpus, DataSettings, load_corpus
from clients.templates import parsed
from fedsim import limits
from fedsim.errors import BadInput

ALPACA = Path(__file__).parents[3] / "shared/data/datasets/alpaca/alpaca_5000.json"
needs_alpaca = pytest.mark.skipif(not ALPACA.is_file(), reason="needs ../shared/data")

ROWS = [
    {"instruction": "Arrange the notes", "input": "G, B, E", "output": "E, G, B"},
    {"instruction": "Name a colour.", "input": "", "output": "Red"},
]
# Copied by hand from the column "text" of tatsu-lab/alpaca (its first row, and one with an input),
# the words of these rows put in.
TEXTS = [
    """\
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
Arrange the notes

### Input:
G, B, E

### Response:
E, G, B""",
    """\
Below is an instruction that describes a task. Write a response that appropriately completes the \
request.

### Instruction:
Name a colour.

### Response:
Red""",
]


def load(path: Path, **options: Any) -> Corpus:
    return load_corpus(DataSettings(name=str(path), evaluate=0, **options), seed=1)


def written(path: Path, rows: Any) -> Path:
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows, indent=2))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        case ".parquet":
            pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_instructions_are_put_into_alpacas_template(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"a{suffix}", ROWS)
    corpus = load(path)
    assert corpus.train["text"][:] == TEXTS
    assert "template alpaca" in corpus.note and "instruction, input, output" in corpus.note
    asked_for = load(path, template="alpaca")
    assert (asked_for.train["text"][:], asked_for.note) == (TEXTS, "")


def test_dollys_columns_are_instructions_too(tmp_path: Path) -> None:
    names = {"input": "context", "output": "response"}
    rows = [{names.get(k, k): v for k, v in row.items()} | {"category": "open_qa"} for row in ROWS]
    assert load(written(tmp_path / "a.jsonl", rows)).train["text"][:] == TEXTS


@pytest.mark.parametrize("nothing", [None, " \n", "gone"])
def test_an_input_may_be_missing(tmp_path: Path, nothing: str | None) -> None:
    rows = [{**ROWS[1], "input": nothing}] * 2
    rows = [{k: v for k, v in row.items() if v != "gone"} for row in rows]
    assert load(written(tmp_path / "a.json", rows)).train["text"][:] == [TEXTS[1]] * 2


def test_rows_that_say_nothing_are_dropped(tmp_path: Path) -> None:
    rows = [*ROWS, {"instruction": " ", "input": None, "output": ""}]
    assert load(written(tmp_path / "a.json", rows)).train["text"][:] == TEXTS


def test_labels_are_no_part_of_a_template_that_nobody_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [{"instruction": "a", "output": "x", "text": "t"}] * 2)
    corpus = load(path, label_column="output")
    assert (corpus.train["text"][:], corpus.note) == (["t", "t"], "")


@needs_alpaca
def test_alpacas_own_file_is_read() -> None:
    corpus, rows = load(ALPACA), json.loads(ALPACA.read_text())
    texts = corpus.train["text"][:]
    assert len(texts) == len(rows) == 5_000
    for text, row in zip(texts, rows, strict=True):
        heads = ["### Instruction:", *["### Input:"] * bool(row["input"]), "### Response:"]
        parts = text.split("\n\n", 1)[1]  # behind the first paragraph, by the naive reading:
        said = [row["instruction"], *[row["input"]] * bool(row["input"]), row["output"]]
        assert parts == "\n\n".join(f"{h}\n{s}" for h, s in zip(heads, said, strict=True))


# A template of the user's


def test_a_template_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(
        "\ufeffQ: {instruction} ({ id })\r\n{{{input}}}\r\nA: {output}\r\n".encode()
    )
    rows = [{**row, "id": place} for place, row in enumerate(ROWS)]
    corpus = load(written(tmp_path / "a.json", rows), template=str(tmp_path / "t.txt"))
    assert corpus.train["text"][:] == [
        "Q: Arrange the notes (0)\n{G, B, E}\nA: E, G, B",
        "Q: Name a colour. (1)\n{}\nA: Red",
    ]
    assert corpus.note == ""


def test_numbers_are_put_in_as_written(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("{a} {b} {c}")
    (tmp_path / "a.jsonl").write_text('{"a": 1.10, "b": true, "c": null}\n{"a": 2, "c": "x"}\n')
    corpus = load(tmp_path / "a.jsonl", template=str(tmp_path / "t.txt"))
    assert corpus.train["text"][:] == ["1.10 True ", "2  x"]
    (tmp_path / "a.csv").write_text("a,b,c\n01,1.0,x\n")
    corpus = load(tmp_path / "a.csv", template=str(tmp_path / "t.txt"))
    assert corpus.train["text"][:] == ["01 1.0 x"]


def test_dollys_columns_fit_a_template_with_alpacas_names(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("{instruction}|{input}|{output}")
    path = written(tmp_path / "a.json", [{"instruction": "a", "context": "b", "response": "c"}])
    assert load(path, template=str(tmp_path / "t.txt")).train["text"][:] == ["a|b|c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{instructon}", r"unknown column 'instructon'; did you mean 'instruction'\? \(known: inp"),
        ('{"a": {instruction}}', r"line 1 has a lone '\{'"),
        ("a\nb } {output}", r"line 2 has a lone '\}'; .* a brace that is meant is written twice"),
        ("no name", "wanted the name of a column in braces, .* got none"),
        ("", "wanted the name of a column in braces"),
        ("{}", "unknown column ''.*known: input, instruction, output"),
        ("{{output}}", "wanted the name of a column in braces"),
        (b"\xff{output}", "t.txt cannot be read: 'utf-8' codec"),
    ],
)
def test_templates_that_cannot_be_used(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "t.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    path = written(tmp_path / "a.json", ROWS)
    with pytest.raises(BadInput, match=f"^data.template.*{message}") as caught:
        load(path, template=str(tmp_path / "t.txt"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {"template": "alpacca"}, "did you mean 'alpaca'.*known: alpaca, chat.*nor is it a"),
        (ROWS, {"template": "~nobody-here/t"}, "unknown data.template .*nor is it a file"),
        (ROWS, {"template": "/"}, "data.template: / cannot be read: it is no regular file"),
        (
            ROWS,
            {"template": "alpaca", "text_column": "output"},
            "'alpaca' makes the texts, so data.text_column must not be given, got 'output'",
        ),
        ([{"text": "a"}], {"template": "alpaca"}, r"takes the columns instruction, .*got text$"),
        ([{"text": "a"}], {"template": "chat"}, r"takes the columns messages, or instr.*got text$"),
        (
            [*ROWS, {"instruction": ["a"], "output": "b"}],
            {},
            "column 'instruction', row 3: wanted a text or a number, got list",
        ),
        (
            [{"instruction": "a \ud800", "output": "b"}],
            {},
            "column 'instruction, output', row 1: .*lone surrogate",
        ),
        ([{"instruction": "", "output": ""}], {}, "no text in its columns 'instruction', 'output'"),
    ],
)
def test_data_that_does_not_fit_a_template(
    tmp_path: Path, rows: Any, options: dict[str, str], message: str
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        load(written(tmp_path / "a.json", rows), **options)
    assert "\n" not in str(caught.value)


def test_a_template_of_more_than_can_be_meant_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONFIG_BYTES", 9)
    (tmp_path / "t.txt").write_text("{output}  ")
    with pytest.raises(BadInput, match=r"data.template: .*t.txt is too large: more than 9 bytes"):
        load(written(tmp_path / "a.json", ROWS), template=str(tmp_path / "t.txt"))


def test_where_the_response_begins_can_be_told() -> None:
    template = parsed("Q {instruction} A: {output}", "here")
    assert template.names == ("instruction", "output")
    assert template.filled({"instruction": "x", "output": ""}) == "Q x A: "  # the prompt alone
