import re
from pathlib import Path

import pytest

from clients.data import DataSettings, load_corpus
from fedsim.errors import BadInput
from tests.clients.parts import parts_of

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


@pytest.mark.slow
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
