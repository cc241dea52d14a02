"""Files as they are kept: packed, and in any encoding."""

import bz2
import gzip
import json
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest

from clients.data import DataSettings, load_corpus
from clients.packed import unpacked
from fedsim import limits
from fedsim.errors import BadInput

TEXTS = ["One, two", "été — ok", "three"]
WRITTEN = {  # by hand
    ".csv": 'text,label\n"One, two",0\nété — ok,1\nthree,0\n',
    ".tsv": "text\tlabel\nOne, two\t0\nété — ok\t1\nthree\t0\n",
    ".json": '[{"text": "One, two"},\n {"text": "été — ok"}, {"text": "three"}]',
    ".jsonl": '{"text": "One, two"}\n{"text": "été — ok"}\n\n{"text": "three"}\n',
    ".txt": "One, two\nété — ok\n\nthree\n",
}


def texts(path: Path, **options: str) -> list[str]:
    settings = DataSettings(name=str(path), evaluate=0, **options)  # type: ignore[arg-type]
    found: list[str] = load_corpus(settings, seed=1).train["text"][:]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize(
    "encoding", ["utf-8", "UTF8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]
)
def test_a_file_of_text_may_be_packed_and_in_any_encoding(
    tmp_path: Path, suffix: str, encoding: str
) -> None:
    content = WRITTEN[suffix].encode(encoding)
    (tmp_path / f"a{suffix}").write_bytes(content)
    (tmp_path / f"A{suffix.upper()}.GZ").write_bytes(gzip.compress(content, mtime=0))
    assert texts(tmp_path / f"a{suffix}", encoding=encoding) == TEXTS
    assert texts(tmp_path / f"A{suffix.upper()}.GZ", encoding=encoding) == TEXTS


def test_windows_letters_are_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 \x85\n")
    assert texts(tmp_path / "a.txt", encoding="cp1252") == ["café …"]
    assert texts(tmp_path / "a.txt", encoding="latin-1") == ["café"]  # 0x85 is white space there


def test_a_json_file_may_have_an_object_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(WRITTEN[".jsonl"])
    assert texts(tmp_path / "a.json") == TEXTS


def test_numbers_of_a_list_stay_as_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "a", "label": 1.10}, {"text": "b", "label": 1.1}]')
    with pytest.raises(
        BadInput, match=r"'label' must have one form of each number, got 1.10 in row"
    ):
        texts(tmp_path / "a.json")


def test_parts_that_were_packed_apart_are_one_file(tmp_path: Path) -> None:
    parts = [gzip.compress(f"{text}\n".encode(), mtime=0) for text in TEXTS]
    (tmp_path / "a.txt.gz").write_bytes(b"".join(parts) + b"\0" * 512)  # as tapes and tar leave it
    assert texts(tmp_path / "a.txt.gz") == TEXTS


@pytest.mark.slow
def test_a_bomb_ends_at_once_and_takes_no_memory(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, wbits=31)
    megabyte = b"a\n" * 2**19
    bomb = b"".join(packer.compress(megabyte) for _ in range(600)) + packer.flush()
    assert len(bomb) < 2**20  # of 600 MB
    (tmp_path / "a.txt.gz").write_bytes(bomb)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(
        BadInput, match=r"a.txt.gz' unpacks to more than 100 times its size"
    ) as error:
        texts(tmp_path / "a.txt.gz")
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert seconds < 1 and peak < 2**25


def test_what_little_unpacks_to_may_repeat_itself() -> None:
    content = b"the same line\n" * 100_000
    packed = gzip.compress(content, mtime=0)
    assert len(content) > limits.UNPACKED * len(packed)
    assert unpacked(packed, "here") == content


def test_a_packed_file_of_more_than_can_be_meant_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DATA_BYTES", 100)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a" * 100, mtime=0))
    assert texts(tmp_path / "a.txt.gz") == ["a" * 100]
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a" * 101, mtime=0))
    with pytest.raises(BadInput, match=r"is too large: it unpacks to more than 100 bytes$"):
        texts(tmp_path / "a.txt.gz")


PACKED = gzip.compress(b"a text\n" * 50, mtime=0)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.txt.gz", b"a text", r"'.*a.txt.gz' cannot be unpacked: Not a gzipped file"),
        ("a.txt.gz", bz2.compress(b"a text"), "cannot be unpacked: Not a gzipped file"),
        ("a.txt.gz", PACKED[:-9], "cannot be unpacked: .*ended before the end-of-stream marker"),
        ("a.txt.gz", PACKED[:-8] + b"\0" * 8, "cannot be unpacked: CRC check failed"),
        ("a.txt.gz", PACKED + b"more", "cannot be unpacked: Not a gzipped file"),
        ("a.txt.gz", b"", "the file '.*a.txt.gz' is empty"),
        ("a.txt.gz", gzip.compress(b" \n", mtime=0), "the file '.*a.txt.gz' is empty"),
        (
            "a.csv.gz",
            gzip.compress(b"text\n\xe9\n", mtime=0),
            "a.csv.gz' must be utf-8, got byte 0xe9 at",
        ),
        ("a.parquet.gz", PACKED, r"must be a file of \.csv, .*packed, its name then ends in .gz"),
        ("a.gz", PACKED, r"must be a file of \.csv, .*, got '.*a.gz'"),
        ("a.json", b'{\n"text": "a"\n}', r"wanted: a list of objects, .*\), line 1: Expecting"),
        ("a.json", b'[{"text": "a"}, "b"]', r"a.json', item 2 must be an object \{...\}"),
        ("a.json", b'[{"text": "a"}', r"a.json': Expecting ',' delimiter"),
        ("a.json", b"[" * 100_000, r"a.json': maximum recursion"),
        ("a.json", b"[ ]", "a.json' is an empty list"),
        ("a.txt", "é".encode("cp1252"), "got byte 0xe9 at offset 0; say as data.encoding what it"),
        ("a.txt", "a".encode("utf-16"), 'looks like UTF-16: set data.encoding = "utf-16"'),
    ],
)
def test_kept_files_that_cannot_be_used(
    tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(BadInput, match=f"^data.*{message}") as caught:
        texts(tmp_path / file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-9", "got 'utf-9'; did you mean 'utf-"),
        ("rot13", "got 'rot13'"),  # Python knows these; they make no text of bytes
        ("base64", "got 'base64'"),
        ("zlib", "got 'zlib'"),
        ("undefined", "got 'undefined'"),
        ("", "got ''"),
        ("utf\0", r"got 'utf\\x00'"),
        ("\ud800", r"got '\\ud800'"),
        ("x" * 10_000, "got 'xxx"),
    ],
)
def test_encodings_that_nobody_knows(encoding: str, message: str) -> None:
    with pytest.raises(BadInput, match=f"^data.encoding: wanted an encoding .*{message}") as caught:
        DataSettings(name="a.csv", encoding=encoding)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("encoding", "content", "got"),
    [
        ("utf-16", b"a\0b", "got byte 0x62 at offset 2"),
        ("ascii", b"a\n\xe9", "got byte 0xe9 at offset 2"),
        ("idna", b"xn--\xff", "got .*"),
    ],
)
def test_a_file_in_another_encoding_is_one_line(
    tmp_path: Path, encoding: str, content: bytes, got: str
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(BadInput, match=f"^data.name: '.*a.txt' must be {encoding}, {got}; say as"):
        texts(tmp_path / "a.txt", encoding=encoding)


@pytest.mark.parametrize("name", ["builtin:clinic", "sst2", "somebody/something", "a.parquet"])
def test_an_encoding_is_for_files_of_text(name: str) -> None:
    with pytest.raises(
        BadInput, match=r"^data.encoding is for a file of \.csv, .*got 'cp1252' for"
    ):
        load_corpus(DataSettings(name=name, encoding="cp1252"), seed=1)


def test_a_list_is_read_as_json_reads_it(tmp_path: Path) -> None:
    rows = [{"text": f"text {at} \u2028 \x0c"} for at in range(50)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    assert texts(tmp_path / "a.json") == [row["text"].strip() for row in rows]
