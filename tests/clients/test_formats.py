import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clients.data import DataSettings, load_corpus
from clients.formats import FILES
from fedsim import limits
from fedsim.errors import BadInput
from tests.clients.parts import parts_of

TEXTS = ['say "NA" twice', "null", '" never closed', "été — ok"]


def write(path: Path, labels: list[Any]) -> Path:
    frame = pd.DataFrame({"id": [7, 8, 9, 10], "words": TEXTS, "label": labels})
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            cells = [["id", "words", "label"], *frame.astype(str).values.tolist()]
            path.write_text("".join("\t".join(row) + "\r\n" for row in cells), encoding="utf-8")
        case ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        case ".parquet":
            frame.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_is_read_as_written(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"data{suffix}", ["b", "a", "b", "c"])
    corpus = load_corpus(DataSettings(name=str(path), evaluate=0), seed=1)
    assert corpus.train["text"][:] == TEXTS  # the only column of strings that is no label
    assert corpus.train["label"][:] == [1, 0, 1, 2]
    assert corpus.label_names == ("a", "b", "c")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_whole_number_labels_are_numbered_in_order(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"data{suffix}", [5, -1, 10, 5])
    corpus = load_corpus(DataSettings(name=str(path), evaluate=0), seed=1)
    assert corpus.train["label"][:] == [1, 0, 2, 1]
    assert corpus.label_names == ("-1", "5", "10")


def test_a_text_file_has_one_example_a_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.TXT"
    path.write_bytes("\ufeff one \r\n\r\n \t\ntwo\x0cpages\nthree\u0085still three".encode())
    corpus = load_corpus(DataSettings(name=str(path), evaluate=0), seed=1)
    assert corpus.train["text"][:] == ["one", "two\x0cpages", "three\u0085still three"]
    assert corpus.label_names == ()


def test_columns_can_be_named_and_rows_without_text_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    records = [
        {"text": "no", "note": " a ", "mood": True, "who": "eve"},
        {"text": "no", "note": "  ", "mood": None, "who": None},
        {"text": "no", "note": "b", "mood": False, "who": "adam"},
        {"text": "no", "mood": False, "who": "adam"},
    ]
    path.write_text("\n\n".join(map(json.dumps, records)))
    settings = DataSettings(
        name=str(path),
        text_column="note",
        label_column="mood",
        partition="natural",
        partition_by="who",
        evaluate=0,
    )
    corpus = load_corpus(settings, seed=1)
    assert corpus.train[:] == {"text": ["a", "b"], "label": [1, 0], "who": [1, 0]}
    assert corpus.label_names == ("False", "True")
    assert [part[:] for part in parts_of(corpus.train, settings, 2)] == [
        {"text": ["b"], "label": [0], "who": [0]},  # adam comes before eve
        {"text": ["a"], "label": [1], "who": [1]},
    ]


def test_no_held_out_text_is_left_in_train(tmp_path: Path) -> None:
    path = tmp_path / "repeats.txt"
    path.write_text("a\nb\na\nc\na\nb\n")
    corpus = load_corpus(DataSettings(name=str(path), evaluate=2), seed=1)
    assert len(set(corpus.held_out["text"])) == len(corpus.held_out) == 2
    assert set(corpus.train["text"]) == {"a", "b", "c"} - set(corpus.held_out["text"])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", b"", "data.name: the file '.*a.csv' is empty"),
        ("a.txt", b" \n\n", "data.name: the file '.*a.txt' is empty"),
        ("a.csv", b"\xef\xbb\xbf", "'.*a.csv' is not a table: No columns"),
        ("a.csv", b"text,label\n", "has no text in its column 'text'"),
        ("a.csv", b"text,label\na,1\n", "data.evaluate must be less than the 1 different texts"),
        ("a.csv", b"text,label\na,1\nb,1,1\n", "'.*a.csv' is not a table: .*saw 3"),
        ("a.csv", b'text,label\n"a,1\nb,2\n', "'.*a.csv' is not a table: .*EOF inside string"),
        ("a.csv", b"text,label\na,1,1\nb,2,2\n", "none of its first rows has as many cells as its"),
        ("a.csv", b"text,label\na,1\nb,1,\n", "'.*a.csv' is not a table: .*saw 3"),
        ("a.csv", b"# by hand, today\ntext;label\na;0\n", "none of its first rows .* at ','"),
        ("a.csv", b"a;b,c\nd;e,f\n", "can be split at ',' or ';' alike; say at which in a line"),
        (
            "a.csv",
            b"text:label\na:0\nb:1\n",
            "one column, 'text:label', and all its texts have ':'",
        ),
        ("a.tsv", b"sep=|\ntext,label\na,0\n", "one column, 'text,label', and all its .* have ','"),
        ("a.jsonl", b'{"text;label": "a;0"}', "one column, 'text;label', and all its .* have ';'"),
        ("a.csv", b"text\ncaf\xe9\n", "'.*a.csv' must be utf-8, got byte 0xe9 at offset 8"),
        ("a.txt", b"\xff\xfea\x00", "data.name: '.*a.txt' must be utf-8, got byte 0xff"),
        ("a.csv", b"u,v\na,b\n", r"data.text_column must be given: .*2 hold .*columns: u, v\)"),
        ("a.csv", b"u,v\n1,2\n", r"data.text_column must be given: .*0 hold .*columns: u, v\)"),
        ("a.csv", b"text\n1\n2\n", "data.text_column 'text' must hold strings, got int"),
        ("a.csv", b"text,label\na,1\nb,0.5\n", "'label' must.*, got float in row 2, int in row 1"),
        ("a.csv", b"text,label\na,\nb,1\n", "'label' must.*, got blank in row 1, int in row 2"),
        ("a.csv", b"text,label\na,x\n,y\nb,\nc,\n", "got blank in row 3, str in row 1"),
        ("a.csv", b"text;label\na;1\nb\n", "got blank in row 2, int in row 1"),
        ("a.jsonl", b'{"text": "a", "label": NaN}', "data.label_column 'label' .*got blank in row"),
        (
            "a.jsonl",
            b'{"text": "a", "label": 1}\n{"text": "b"}',
            "got blank in row 2, int in row 1",
        ),
        ("a.jsonl", b'{"text": "a", "label": "1"}\n{"text": "b", "label": 1}', "int in row 2, str"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, "'.*a.jsonl', line 1: maximum recursion"),
        ("a.jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}", "line 1: Exceeds the limit"),
        ("a.csv", "text\na\n".encode("utf-16"), "byte 0xff at offset 0; it looks like UTF-16"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": ', "'.*a.jsonl', line 3: Expecting value"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b \\ud800"}',
            "'text', row 2: .*lone surrogate, U.D800",
        ),
        ("a.jsonl", b'{"text": "a", "label": "\\udfff"}', "'label', row 1: .*surrogate, U.DFFF"),
        ("a.jsonl", b'["a"]', r"'.*a.jsonl', line 1 must be an object"),
        ("a.parquet", b"text", "data.name: '.*a.parquet' is not parquet"),
        ("a.parquet", b"", "data.name: the file '.*a.parquet' is empty"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    (tmp_path / file).write_bytes(content)
    evaluate = 1 if "evaluate" in message else 0
    with pytest.raises(BadInput, match=message) as caught:
        load_corpus(DataSettings(name=str(tmp_path / file), evaluate=evaluate), seed=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", sorted(FILES))
def test_what_is_no_file_is_not_opened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    makers: list[Callable[[], object]] = [
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
    ]
    for make in makers:
        make()
        with pytest.raises(
            BadInput, match=r"^data\.name: .*/a.* cannot be read: it is no regular file"
        ):
            load_corpus(DataSettings(name=str(path)), seed=1)
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_file_of_more_than_can_be_meant_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DATA_BYTES", 9)
    (tmp_path / "a.txt").write_text("123456789")
    load_corpus(DataSettings(name=str(tmp_path / "a.txt"), evaluate=0), seed=1)
    (tmp_path / "a.txt").write_text("1234567890")
    with pytest.raises(BadInput, match=r"^data.name: .*a.txt is too large: more than 9 bytes$"):
        load_corpus(DataSettings(name=str(tmp_path / "a.txt")), seed=1)


@pytest.mark.parametrize("columns", [[("text", "a"), ("label", "b")], [1, 2]])
def test_columns_of_parquet_that_have_no_plain_name(tmp_path: Path, columns: list[Any]) -> None:
    frame = pd.DataFrame([["a", 0], ["b", 1]])
    frame.columns = pd.Index(columns)
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        BadInput, match="must have columns with a text each as name, none twice, got "
    ):
        load_corpus(DataSettings(name=str(tmp_path / "a.parquet")), seed=1)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_whole_numbers_kept_as_floats_are_whole_numbers(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"data{suffix}", [1.0, 0.0, 1.0, 2.0])
    corpus = load_corpus(DataSettings(name=str(path), evaluate=0), seed=1)
    assert (corpus.train["label"][:], corpus.label_names) == ([1, 0, 1, 2], ("0", "1", "2"))
