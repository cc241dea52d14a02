import json
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import httpx
import numpy as np
import pandas as pd
import pytest
from flwr_datasets.partitioner import IidPartitioner
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from clients.corpus import clinic
from clients.data import DataSettings, load_corpus, shards
from clients.formats import FILES
from clients.partitions import PARTITIONS, PARTITIONS_BY_COLUMN, divide
from fedsim import limits
from fedsim.errors import BadInput

RAW = Path(__file__).parents[3] / "shared" / "data" / "datasets"
needs_raw = pytest.mark.skipif(not RAW.is_dir(), reason="needs the raw data sets in ../shared/data")


def raw(name: str, **options: Any) -> DataSettings:
    return DataSettings(name=name, path=str(RAW / name), **options)


def lines(file: str, encoding: str = "utf-8") -> list[str]:
    """The naive reading: the file's lines, ended by a line feed and by nothing else."""
    return (RAW / file).read_bytes().decode(encoding).removesuffix("\n").split("\n")


def rows(count: int, **columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(count)], **columns})


# The built-in corpus


def test_builtin_corpus_is_split_without_loss_or_overlap() -> None:
    corpus = load_corpus(DataSettings(name="builtin:clinic", evaluate=100), seed=3)
    both = [*corpus.train, *corpus.held_out]
    assert len(corpus.held_out) == 100
    assert sorted((row["text"], row["label"]) for row in both) == sorted(clinic())
    assert corpus.label_names == ("routine", "urgent")


def test_held_out_rows_follow_the_seed() -> None:
    settings = DataSettings(name="builtin:clinic", evaluate=20)
    first, again, other = (load_corpus(settings, seed).held_out["text"][:] for seed in (1, 1, 2))
    assert first == again
    assert first != other


# Named data sets: row counts are those of SOURCES.md, texts those of a naive reading


@needs_raw
def test_sst2_is_read_without_quoting() -> None:
    corpus = load_corpus(raw("sst2"), seed=1)
    expected = [line.rpartition("\t") for line in lines("sst2/train.tsv")[1:]]
    assert len(corpus.train) == 67_349
    assert corpus.train["text"][:] == [text.strip() for text, _, _ in expected]
    assert corpus.train["label"][:] == [int(label) for _, _, label in expected]
    assert corpus.label_names == ("negative", "positive")
    assert len(corpus.held_out) == 128
    dev = {line.rpartition("\t")[0].strip() for line in lines("sst2/dev.tsv")[1:]}
    assert set(corpus.held_out["text"]) <= dev


@needs_raw
def test_cola_is_read_without_header_and_quoting() -> None:
    corpus = load_corpus(raw("cola", evaluate=10_000), seed=1)
    expected = [line.split("\t") for line in lines("cola/in_domain_train.tsv")]
    assert len(corpus.train) == 8_551
    assert corpus.train["text"][:] == [cells[3].strip() for cells in expected]
    assert corpus.train["label"][:] == [int(cells[1]) for cells in expected]
    assert len(corpus.held_out) == 527  # all there are
    assert corpus.label_names == ("unacceptable", "acceptable")


@needs_raw
def test_cola_is_divided_by_the_publication_a_sentence_is_from() -> None:
    settings = raw("cola", partition="natural", partition_by="source", evaluate=0)
    source = [line.split("\t")[0] for line in lines("cola/in_domain_train.tsv")]
    parts = parts_of(load_corpus(settings, seed=1).train, settings, 3)
    assert [len(part) for part in parts] == [source.count(name) for name in sorted(set(source))[:3]]


@needs_raw
def test_rotten_tomatoes_is_cp1252_and_ends_lines_with_line_feeds_only() -> None:
    corpus = load_corpus(raw("rotten_tomatoes", evaluate=0), seed=1)
    halves = [lines(f"rotten_tomatoes/rt-polarity.{kind}", "cp1252") for kind in ("neg", "pos")]
    assert [len(half) for half in halves] == [5_331, 5_331]
    assert corpus.train["text"][:] == [line.strip() for half in halves for line in half]
    assert corpus.train["label"][:] == [0] * 5_331 + [1] * 5_331
    assert len(corpus.held_out) == 0
    assert any("…" in text for text in corpus.train["text"])  # 0x85 in cp1252


@needs_raw
def test_wikitext2_drops_headings_and_takes_valid_for_train() -> None:
    corpus = load_corpus(raw("wikitext2", evaluate=10_000), seed=1)
    for file, split in (("valid.txt", corpus.train), ("test.txt", corpus.held_out)):
        stripped = [line.strip() for line in lines(f"wikitext2/{file}")]
        prose = [text for text in stripped if text and not (text[0] == text[-1] == "=")]
        assert sorted(split["text"]) == sorted(prose)
    assert corpus.train.column_names == ["text"]
    assert corpus.label_names == ()


def test_wikitext2_with_its_train_file_holds_valid_out(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        text = f" \n = Title = \n \n A {split} line . \n = = Part = = \n"
        (tmp_path / f"{split}.txt").write_text(text)
    corpus = load_corpus(DataSettings(name="wikitext2", path=str(tmp_path)), seed=1)
    assert corpus.train["text"][:] == ["A train line ."]
    assert corpus.held_out["text"][:] == ["A valid line ."]


# Files

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


# Tables as people write them

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["01", "1", "001", "1"], ("001", "01", "1")),  # postcodes, codes of products
        (["00", "0", "00", "0"], ("0", "00")),
        (["+1", "1", "+1", "1"], ("+1", "1")),
        (["0.0", "1.0", "0.0", "1.0"], ("0", "1")),
        (["10.0", "9.", "10.0", "9."], ("9", "10")),
        (["1e5", "100000", "1E5", "2"], ("100000", "1E5", "1e5", "2")),  # names in hexadecimal
        (["-1", "0", "1", "0"], ("-1", "0", "1")),
        (["1,0", "0,0", "1,0", "0,0"], ("0,0", "1,0")),
        (["1e3", "nan", "inf", "1e3"], ("1e3", "inf", "nan")),
        (["True", "False", "True", "False"], ("False", "True")),
        (["9" * 120, "1", "1", "1"], ("1", "9" * 120)),
        (["not urgent", " urgent", "NA", "null"], (" urgent", "NA", "not urgent", "null")),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_labels_are_numbers_only_where_all_are_written_as_such(
    tmp_path: Path, suffix: str, cells: list[str], names: tuple[str, ...]
) -> None:
    path, between = tmp_path / f"data{suffix}", {".csv": ",", ".tsv": "\t"}[suffix]
    rows = [("text", "label"), *((f"text {at}", cell) for at, cell in enumerate(cells))]
    quote = '"' if suffix == ".csv" else ""
    path.write_text("".join(f"{a}{between}{quote}{b}{quote}\n" for a, b in rows))
    corpus = load_corpus(DataSettings(name=str(path), evaluate=0), seed=1)
    assert corpus.label_names == names
    places = {cell: at for at, cell in enumerate(names)}
    whole = [cell.rstrip("0").rstrip(".") if "." in cell else cell for cell in cells]
    assert corpus.train["label"][:] == [places[cell] for cell in whole]


ONE_NUMBER = [
    ("1.0", "1"),
    ("1", "1.00"),
    ("1.", "1"),
    (" 1", "1"),
    ("1", "1 "),
    ("1", "1\u00a0"),
    ("-0", "0"),
    (".5", "0.5"),
    ("1.1", "1.10"),
]


@pytest.mark.parametrize("cells", ONE_NUMBER)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_labels_that_are_one_number_in_two_forms_are_named(
    tmp_path: Path, suffix: str, cells: tuple[str, str]
) -> None:
    path, between = tmp_path / f"data{suffix}", {".csv": ",", ".tsv": "\t"}[suffix]
    path.write_text(
        "".join(
            f"{a}{between}{b}\n" for a, b in [("text", "label"), *zip("ab", cells, strict=True)]
        )
    )
    forms = rf"got {re.escape(repr(cells[0]))} in row 1 and {re.escape(repr(cells[1]))} in row 2$"
    with pytest.raises(BadInput, match=rf"'label' must have one form of each number, {forms}"):
        load_corpus(DataSettings(name=str(path), evaluate=0), seed=1)


@pytest.mark.parametrize(
    "sites",
    [
        ("01", "1", "001", "1"),
        ("1e5", "100000", "1E5", "100000"),
        ("9007199254740993e0", "9007199254740992e0", "9007199254740993", "9007199254740992"),
        ("1.1", "1.10", "1.2", "1.2"),  # versions
        ("1", "2", "10", "1"),
        *((a, b, a, b) for a, b in ONE_NUMBER),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_sites_are_those_that_are_written(
    tmp_path: Path, suffix: str, sites: tuple[str, ...]
) -> None:
    path, between = tmp_path / f"data{suffix}", {".csv": ",", ".tsv": "\t"}[suffix]
    rows = [("text", "site"), *zip("abcd", sites, strict=True)]
    path.write_text("".join(f"{a}{between}{b}\n" for a, b in rows))
    settings = DataSettings(name=str(path), partition="natural", partition_by="site", evaluate=0)
    corpus = load_corpus(settings, seed=1)
    parts = parts_of(corpus.train, settings, len(set(sites)))
    wanted = [[text for text, at in rows[1:] if at == site] for site in sorted(set(sites))]
    assert [sorted(part["text"][:]) for part in parts] == wanted


@pytest.mark.parametrize(
    "pair", [("1", "1.0"), ("1e5", "100000.0"), ("1.0", "1.00"), ("-0.0", "0.0"), ("2.5", "2.50")]
)
@pytest.mark.parametrize("column", ["label", "site"])
def test_one_number_in_two_forms_of_json_is_named(
    tmp_path: Path, column: str, pair: tuple[str, str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "a", "{column}": {one}}}\n' for one in pair))
    settings = DataSettings(
        name=str(path),
        evaluate=0,
        partition="natural" if column == "site" else "iid",
        partition_by="site",
    )
    with pytest.raises(
        BadInput, match=f"'{column}' must have one form .* in row 1 and .* in row 2$"
    ):
        load_corpus(settings, seed=1)


def test_large_numbers_of_json_stay_apart(tmp_path: Path) -> None:
    path, large = tmp_path / "a.jsonl", ("9007199254740992.0", "9007199254740993.0")
    path.write_text("".join(f'{{"text": "a", "label": {one}}}\n' for one in large))
    corpus = load_corpus(DataSettings(name=str(path), evaluate=0), seed=1)
    assert corpus.label_names == ("9007199254740992", "9007199254740993")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_whole_numbers_kept_as_floats_are_whole_numbers(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"data{suffix}", [1.0, 0.0, 1.0, 2.0])
    corpus = load_corpus(DataSettings(name=str(path), evaluate=0), seed=1)
    assert (corpus.train["label"][:], corpus.label_names) == ([1, 0, 1, 2], ("0", "1", "2"))


@pytest.mark.parametrize(
    "content",
    [
        BOM + b"text;label\r\nOne, two;0\r\nthree;1\r\n",  # Excel's in half of Europe
        b"text;label\rOne, two;0\rthree;1\r",
        b"sep=;\r\ntext;label\r\nOne, two;0\r\nthree;1\r\n",
        b'"text";"label"\n"One, two";"0"\n"three";"1"\n',
        b"text;label\nOne, two;0,0\nthree;1,0\n",  # its decimal commas
        b"text\tlabel\nOne, two\t0\nthree\t1\n",
        b"text|label\nOne, two|0\nthree|1\n",
        b'text,label\n"One, two",0\nthree,1\n',
        b'\n"text",label\n"One, two",0\nthree,1\n',
        b'"sep=;"\ntext;label\nOne, two;0\nthree;1\n',
        b"SEP=|\rtext|label\rOne, two|0\rthree|1\r",
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_is_split_at_what_splits_its_header(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    corpus = load_corpus(DataSettings(name=str(path), evaluate=0), seed=1)
    assert corpus.train[:] == {"text": ["One, two", "three"], "label": [0, 1]}
    assert corpus.columns == ("text", "label")


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        (b"text (a, b);label\nhello;0\nyou;1\n", ("text (a, b)", "label")),
        (b"text (a, b);kind\nhello;0\nyou\nhim;0\n", ("text (a, b)", "kind")),
        (b"text, original;label, new\nhello, x;0\nyou, y;1\n", ("text, original", "label, new")),
        (b"text|a;b\tlabel\nhello\t0\nyou\t1\n", ("text|a;b", "label")),
        (b'"text;a","label;b"\n"hello; x","0"\n"you; y","1"\n', ("text;a", "label;b")),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_signs_in_a_header_split_nothing_that_the_rows_do_not_say(
    tmp_path: Path, suffix: str, content: bytes, columns: tuple[str, str]
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    settings = DataSettings(name=str(path), text_column=columns[0], evaluate=0)
    corpus = load_corpus(settings, seed=1)
    assert corpus.columns == columns
    assert [text[:3] for text in corpus.train["text"]][:2] == ["hel", "you"]
    assert not any("0" in text for text in corpus.train["text"])


def test_a_tsv_is_split_at_tabs_where_commas_would_do_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text, or so\tlabel\nhello, you\t1\n"so, ...\t0\n')
    corpus = load_corpus(DataSettings(name=str(tmp_path / "a.tsv"), evaluate=0), seed=1)
    assert corpus.train[:] == {"text": ["hello, you", '"so, ...'], "label": [1, 0]}


@pytest.mark.parametrize("suffix", [".tsv", ".txt", ".jsonl"])
def test_lines_may_end_with_carriage_returns(tmp_path: Path, suffix: str) -> None:
    lines = {
        ".tsv": ["text\tlabel", "one\t0", "two\t1"],
        ".txt": ["one", "two"],
        ".jsonl": ['{"text": "one"}', '{"text": "two"}'],
    }[suffix]
    for end in ("\r", "\r\n", "\n"):
        (tmp_path / f"a{suffix}").write_bytes("".join(line + end for line in lines).encode())
        corpus = load_corpus(DataSettings(name=str(tmp_path / f"a{suffix}"), evaluate=0), seed=1)
        assert corpus.train["text"][:] == ["one", "two"]


def test_signs_within_texts_split_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\nOne; two | three,0\n"a\tb, c",1\n')
    corpus = load_corpus(DataSettings(name=str(tmp_path / "a.csv"), evaluate=0), seed=1)
    assert corpus.train["text"][:] == ["One; two | three", "a\tb, c"]
    (tmp_path / "b.csv").write_text("text\nOne; two | three\n")
    corpus = load_corpus(DataSettings(name=str(tmp_path / "b.csv"), evaluate=0), seed=1)
    assert corpus.train["text"][:] == ["One; two | three"]


# What cannot be used


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "sst3"},
            "unknown data.name 'sst3'; did you mean 'sst2'.*known: builtin:clinic, ",
        ),
        ({"name": "builtin:clinc"}, r"did you mean 'builtin:clinic'\? \(known: builtin:clinic\)"),
        ({"name": "./none"}, r"a hub id is owner/name, a file ends in \.csv, \.tsv, "),
        ({"name": "none.csv"}, "data.name: there is no file 'none.csv'"),
        ({"name": "/"}, r"data.name must be a file of \.csv, .*\.txt, got '/'"),
        ({"name": "cola", "path": "/none"}, "data.path must be a folder with in_domain_train.tsv,"),
        ({"name": "x.csv", "path": "y"}, "data.path is for a copy of cola, .*data.name = 'x.csv'"),
        ({"name": "cola", "partition": "dirichlett"}, "data.partition .*did you mean 'dirichlet'"),
        ({"name": "cola", "alpha": 0.0}, "data.alpha must be a positive number, got 0.0"),
        ({"name": "cola", "alpha": math.nan}, "data.alpha must be a positive number, got nan"),
        ({"name": "cola", "evaluate": -1}, "data.evaluate must be at least 0, got -1"),
        (
            {"name": "builtin:clinic", "evaluate": 504},
            "data.evaluate must be less than the 504 different texts of 'builtin:clinic', got 504",
        ),
        (
            {"name": "builtin:clinic", "text_column": "txt"},
            r"unknown data.text_column 'txt'; did you mean 'text'\? \(known: label, text\)",
        ),
        ({"name": "builtin:clinic", "label_column": "l"}, "unknown data.label_column 'l'"),
        (
            {"name": "builtin:clinic", "partition": "natural", "partition_by": "who"},
            "data.partition 'natural' .*data.partition_by = 'who', but the columns are text, label",
        ),
    ],
)
def test_settings_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        load_corpus(DataSettings(**options), seed=1)
    assert "\n" not in str(caught.value)


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


def test_copies_that_cannot_be_used(tmp_path: Path) -> None:
    sst2 = DataSettings(name="sst2", path=str(tmp_path))
    with pytest.raises(BadInput, match=r"data.path: there is no file '.*train\.tsv'"):
        load_corpus(sst2, seed=1)
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nfine\t1\n")
    (tmp_path / "train.tsv").write_text("sentence\tlabel\nbad\t0\ngood\t2\n")
    with pytest.raises(BadInput, match=r"'label' must be 0 to 1 \(negative, positive\), got 2"):
        load_corpus(sst2, seed=1)
    for kind in ("neg", "pos"):
        (tmp_path / f"rt-polarity.{kind}").write_bytes(b"na\x81ve\n")
    with pytest.raises(BadInput, match=r"data.path: .*neg' must be cp1252, got byte 0x81 at"):
        load_corpus(DataSettings(name="rotten_tomatoes", path=str(tmp_path)), seed=1)


# The hub, as it is without a network and as it would be with one


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("cola", "point data.path at a local copy"),
        ("nobody/nothing", "name a local file"),
    ],
)
def test_without_a_hub_one_line_comes_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, instead: str
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)  # waits are counted, not waited for
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(BadInput, match=f"data.name '{name}' did not come from .*; {instead}$"):
        load_corpus(DataSettings(name=name), seed=1)
    assert sum(slept) < 5.0  # refused at once, so what is slept is all that it takes
    assert datasets.config.HF_HUB_OFFLINE == before


FEATURES = datasets.Features(
    {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
)


def table(**columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def pretend_hub(
    monkeypatch: pytest.MonkeyPatch, splits: Any, failure: Exception | None = None
) -> list[tuple[Any, ...]]:
    """Let the hub answer with ``splits``, or with ``failure``; return the calls it will see."""
    calls: list[tuple[Any, ...]] = []

    def info(self: HfApi, repository: str, timeout: float) -> None:
        if failure:
            raise failure

    def load(*arguments: Any) -> Any:
        calls.append((*arguments, datasets.config.HF_HUB_OFFLINE))
        if isinstance(splits, Exception):
            raise splits
        return splits

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def test_a_hub_data_set_keeps_its_validation_split_and_class_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splits = {
        "train": table(sentence=["a", " ", "c"], label=[1, 0, 0]),
        "validation": table(sentence=["d", "e"], label=[1, 1]),
        "test": table(sentence=["f"], label=[-1]),
    }
    calls = pretend_hub(monkeypatch, splits)
    corpus = load_corpus(DataSettings(name="somebody/something"), seed=1)
    assert calls == [("somebody/something", None, False)]
    assert corpus.train[:] == {"text": ["a", "c"], "label": [1, 0]}
    assert sorted(corpus.held_out["text"]) == ["d", "e"]
    assert corpus.label_names == ("no", "yes")


def test_rows_of_a_split_of_its_own_follow_the_seed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    split = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(50)]})
    pretend_hub(monkeypatch, {"train": split, "validation": split})
    settings = DataSettings(name="somebody/something", evaluate=5)
    first, again, other = (load_corpus(settings, seed).held_out["text"][:] for seed in (1, 1, 2))
    assert len(set(first)) == 5
    assert first == again
    assert first != other


def test_a_named_data_set_has_the_same_names_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": table(sentence=["a", "b", "c"], label=[1, 0, 0])}
    calls = pretend_hub(monkeypatch, splits)
    corpus = load_corpus(DataSettings(name="sst2", evaluate=1), seed=1)
    assert calls == [("nyu-mll/glue", "sst2", False)]
    assert (len(corpus.train), len(corpus.held_out)) == (2, 1)
    assert corpus.label_names == ("negative", "positive")


def test_headings_are_dropped_from_the_hub_too(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["", " = Title = \n", " A line . \n"]
    split = datasets.Dataset.from_dict({"text": texts})
    pretend_hub(monkeypatch, {"train": split, "validation": split})
    corpus = load_corpus(DataSettings(name="wikitext2"), seed=1)
    assert corpus.train["text"][:] == corpus.held_out["text"][:] == ["A line ."]


def test_without_a_hub_the_cache_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": table(sentence=["a"], label=[1])}
    calls = pretend_hub(monkeypatch, splits, failure=httpx.ConnectTimeout("timed out"))
    corpus = load_corpus(DataSettings(name="somebody/something", evaluate=0), seed=1)
    assert corpus.train["text"][:] == ["a"]
    assert calls == [("somebody/something", None, True)]
    assert datasets.config.HF_HUB_OFFLINE is False


def test_hub_data_sets_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DataSettings(name="somebody/something", evaluate=0)
    response = httpx.Response(404, request=httpx.Request("GET", "http://hub.example"))
    pretend_hub(monkeypatch, {}, failure=RepositoryNotFoundError("none", response=response))
    with pytest.raises(BadInput, match="'somebody/something': the hub has no such data set"):
        load_corpus(settings, seed=1)
    pretend_hub(monkeypatch, ValueError("Config name is missing.\nPick one among: a, b"))
    with pytest.raises(BadInput, match=r"\(Config name is missing. Pick one among: a, b\); name"):
        load_corpus(settings, seed=1)
    pretend_hub(monkeypatch, {"part": table(sentence=["a"], label=[1])})
    with pytest.raises(BadInput, match="must have a train split, got part"):
        load_corpus(settings, seed=1)
    pretend_hub(monkeypatch, {"train": table(sentence=["a"], label=[-1])})
    with pytest.raises(BadInput, match=r"'label' must be 0 to 1 \(no, yes\), got -1"):
        load_corpus(settings, seed=1)


# Partitions


def parts_of(
    train: datasets.Dataset, settings: DataSettings, clients: int, seed: int = 1
) -> list[datasets.Dataset]:
    """Return the rows of each client."""
    return [train.select(part) for part in shards(train, settings, clients, seed)]


def sizes(partition: str, count: int, clients: int, **columns: list[Any]) -> list[int]:
    settings = DataSettings(name="any", partition=partition)
    return [len(part) for part in shards(rows(count, **columns), settings, clients, seed=1)]


@pytest.mark.parametrize("partition", sorted(PARTITIONS))
def test_every_partition_gives_each_row_to_one_client_and_follows_the_seed(partition: str) -> None:
    train = rows(120, label=[i % 3 for i in range(120)])
    settings = DataSettings(name="any", partition=partition)
    first, again, other = (
        [part["text"][:] for part in parts_of(train, settings, 3, seed)] for seed in (1, 1, 2)
    )
    assert sorted(text for part in first for text in part) == sorted(train["text"])
    assert all(first)
    assert first == again
    assert first != other


def test_sizes_are_those_of_a_hand_count() -> None:
    assert sizes("iid", 10, 3) == [4, 3, 3]
    assert sizes("linear", 20, 4) == [2, 4, 6, 8]
    assert sizes("square", 30, 4) == [1, 4, 9, 16]
    # e, e^2, e^3 of their sum: 9.00 %, 24.47 %, 66.52 %; the last one gets what rounding leaves
    assert sizes("exponential", 90, 3) == [8, 22, 60]
    label = [0, 1] * 5
    assert sizes("inner_dirichlet", 10, 3, label=label) == [4, 3, 3]
    assert sizes("shard", 10, 2, label=label) == [
        4,
        4,
    ]  # four shards of 10 // 4 rows, two rows lost
    assert sizes("natural", 10, 2, label=label) == [5, 5]


def test_iid_clients_get_rows_from_everywhere() -> None:
    part = parts_of(rows(100), DataSettings(name="any"), 2)[0]
    number = [int(text.split()[1]) for text in part["text"]]
    assert 15 < sum(n < 50 for n in number) < 35  # 25 expected, standard deviation 2.5


@pytest.mark.parametrize(("count", "clients"), [(10, 3), (11, 4), (7, 7), (101, 8)])
def test_iid_clients_get_what_flowers_partitioner_gives_them(count: int, clients: int) -> None:
    flower = IidPartitioner(clients)
    order = np.random.default_rng(1).permutation(count)
    flower.dataset = datasets.Dataset.from_dict({"row": order})
    expected = [flower.load_partition(client)["row"][:] for client in range(clients)]
    assert divide(order, np.zeros(count, dtype=np.int64), "iid", clients, 0.5, 1) == expected


def test_natural_clients_are_the_first_values_in_sorted_order() -> None:
    train = rows(6, who=["eve", "adam", "eve", "noah", "adam", "eve"])
    settings = DataSettings(name="any", partition="natural", partition_by="who")
    parts = parts_of(train, settings, 2)
    assert [sorted(part["text"]) for part in parts] == [
        ["text 1", "text 4"],  # adam
        ["text 0", "text 2", "text 5"],  # eve
    ]


@pytest.mark.parametrize(("labels", "each"), [(2, 1), (3, 2), (5, 2)])
def test_pathological_clients_know_few_labels(labels: int, each: int) -> None:
    train = rows(60, label=[i % labels for i in range(60)])
    settings = DataSettings(name="any", partition="pathological")
    for part in parts_of(train, settings, 5):
        assert len(set(part["label"])) == each


def test_alpha_decides_how_far_the_labels_of_clients_differ() -> None:
    train = rows(2_000, label=[i % 2 for i in range(2_000)])

    def spread(partition: str, alpha: float) -> float:
        settings = DataSettings(name="any", partition=partition, alpha=alpha)
        parts = parts_of(train, settings, 4)
        shares = [sum(part["label"]) / len(part) for part in parts]
        return float(max(shares) - min(shares))

    for partition in ("dirichlet", "inner_dirichlet"):
        assert spread(partition, 10_000.0) < 0.1 < 0.3 < spread(partition, 0.2)


def test_dirichlet_clients_of_little_data_may_be_small() -> None:
    settings = DataSettings(name="any", partition="dirichlet", alpha=5.0)
    parts = shards(rows(12, label=[0, 1] * 6), settings, clients=4, seed=1)
    assert sum(map(len, parts)) == 12  # the library's own minimum is 10 rows a client


@pytest.mark.parametrize("partition", sorted(PARTITIONS_BY_COLUMN))
def test_a_partition_by_column_takes_words_and_labels_that_train_lacks(partition: str) -> None:
    train = rows(40, label=[1, 3] * 20, who=["b", "d"] * 20)  # 0 and 2 may be held out only
    for by in ("label", "who"):
        settings = DataSettings(name="any", partition=partition, partition_by=by, alpha=5.0)
        parts = shards(train, settings, clients=2, seed=1)
        assert sum(map(len, parts)) == 40


@pytest.mark.parametrize(
    ("partition", "count", "clients", "message"),
    [
        ("iid", 3, 4, "federation.clients must be between 1 and the 3 rows to train on, got 4"),
        ("iid", 3, 0, "federation.clients must be between 1 and the 3 rows to train on, got 0"),
        ("natural", 9, 3, "data.partition 'natural' cannot divide 9 rows among 3 clients .*only 2"),
        ("shard", 9, 5, "two shards a client take 10 rows"),
        ("exponential", 9, 8, "data.partition 'exponential' cannot divide 9 rows among 8 clients"),
        ("pathological", 9, 9, "data.partition 'pathological' cannot .*Label: 1 is needed"),
        ("dirichlet", 9, 9, r"data.partition 'dirichlet' cannot .*data.alpha = 0.5\): The max"),
    ],
)
def test_rows_that_cannot_be_divided_so(
    partition: str, count: int, clients: int, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        sizes(partition, count, clients, label=[i % 5 == 1 for i in range(count)])


def test_a_partition_by_column_needs_the_column() -> None:
    for partition in PARTITIONS_BY_COLUMN:
        with pytest.raises(BadInput, match=f"'{partition}' goes by .*'label', but .* are text"):
            sizes(partition, 9, 2)


def test_a_client_without_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Greedy:
        """Everything for client 0."""

        dataset: datasets.Dataset

        def load_partition(self, client: int) -> datasets.Dataset:
            return self.dataset if client == 0 else self.dataset.select([])

    monkeypatch.setitem(PARTITIONS, "iid", lambda plan: Greedy())
    with pytest.raises(BadInput, match=r"data\.partition 'iid' leaves client 1 without data"):
        sizes("iid", 9, 3)


def test_dividing_says_nothing_on_the_way(capfd: pytest.CaptureFixture[str]) -> None:
    for partition in PARTITIONS:
        sizes(partition, 40, 2, label=[0, 1] * 20)
    assert capfd.readouterr() == ("", "")


def test_inputs_stay_as_they_were() -> None:
    train = rows(20, label=[0, 1] * 10)
    before = train[:]
    shards(train, DataSettings(name="any", partition="shard"), clients=2, seed=1)
    assert train[:] == before
