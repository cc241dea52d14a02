"""From a file to rows: columns and cells stay as they were written."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedsim.errors import BadInput, reading

SEPARATORS = (",", ";", "\t", "|")  # the first that splits the header; spreadsheets write ; too
HINT = re.compile(r"sep=(.)(?:\r\n|\r|\n)")  # a first line that is meant for spreadsheets
WHOLE = re.compile(r"(?:0|-?[1-9]\d{0,99})(?:\.0+)?")  # no 01: that is a name, a code, a postcode
NUMBER = re.compile(r"-?(?:(?:0|[1-9]\d{0,99})(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_file(path: Path) -> pd.DataFrame:
    """Return the rows of a file of the user's.

    Raises:
        BadInput: it is of no kind that can be read, or broken.
    """
    if path.suffix.lower() not in FILES:
        raise BadInput(f"data.name must be a file of {', '.join(FILES)}, got {str(path)!r}")
    return FILES[path.suffix.lower()](path, "data.name")


def _bytes(path: Path, key: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{key}: there is no file {str(path)!r}") from None
    except OSError as error:
        raise BadInput(f"{key}: cannot read {str(path)!r} ({error.strerror})") from error
    if not content.strip():
        raise BadInput(f"{key}: the file {str(path)!r} is empty")
    return content


def _text(path: Path, key: str, encoding: str = "utf-8") -> str:
    content = _bytes(path, key)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        hint = "; it looks like UTF-16: save it as UTF-8" if content.startswith(UTF16) else ""
        raise BadInput(
            f"{key}: {str(path)!r} must be {encoding}, got byte 0x{content[error.start]:02x} "
            f"at offset {error.start}{hint}"
        ) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def lines(path: Path, key: str, encoding: str = "utf-8") -> pd.DataFrame:
    """Return the lines that are not blank, as texts."""
    # Not str.splitlines: form feeds, 0x85 and the like occur inside sentences.
    text = _text(path, key, encoding)
    return pd.DataFrame({"text": [line for line in text.split("\n") if line.strip()]}, dtype="str")


def _csv(path: Path, key: str) -> pd.DataFrame:
    text = _text(path, key)
    hint = HINT.match(text)
    text = text[hint.end() :] if hint else text
    return _table(path, key, text, sep=hint[1] if hint else _separator(text))


def _separator(text: str) -> str:
    """Return what separates the cells of a table's header; a comma where nothing does."""
    for separator in SEPARATORS:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            header = next((cells for cells in lines if cells), [])
        except csv.Error:  # a cell of 128 kB: no header looks so
            continue
        if len(header) > 1:
            return separator
    return SEPARATORS[0]


def _table(path: Path, key: str, text: str, **options: Any) -> pd.DataFrame:
    # All cells as text: pandas would take 01 for 1. "NA", "null", "None" are words, not gaps.
    with reading(f"{key}: {str(path)!r} is not a table"):
        frame: pd.DataFrame = pd.read_csv(
            io.StringIO(text), keep_default_na=False, low_memory=False, dtype="object", **options
        )
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the surplus for an index
        raise BadInput(f"{key}: {str(path)!r} has rows with more cells than its header")
    columns = {name: _typed(frame[name].tolist()) for name in frame.columns}
    return pd.DataFrame(columns, dtype=object)


def _typed(cells: Sequence[str]) -> Sequence[str | float | None]:
    """Return ``cells`` as numbers, where each is written as one, or as they are.

    None stands for a blank one among numbers.
    """
    said = [cell.strip() if isinstance(cell, str) else "" for cell in cells]
    for kind, form in ((_whole, WHOLE), (float, NUMBER)):
        if any(said) and all(form.fullmatch(cell) for cell in said if cell):
            return [kind(cell) if cell else None for cell in said]
    return cells


def _whole(cell: str) -> int:
    return int(cell.partition(".")[0])


def tsv(path: Path, key: str, **options: Any) -> pd.DataFrame:
    """Return a table of tab-separated values."""
    # A quotation mark is a character here, as in the GLUE files: quoting would join their lines.
    how = {"sep": "\t", "quoting": csv.QUOTE_NONE, "lineterminator": "\n"}
    return _table(path, key, _text(path, key), **how, **options)


def _json_lines(path: Path, key: str) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for number, line in enumerate(_text(path, key).split("\n"), start=1):
        if not line.strip():
            continue
        with reading(f"{key}: {str(path)!r}, line {number}"):
            row = json.loads(line)
        if not isinstance(row, dict):
            raise BadInput(f"{key}: {str(path)!r}, line {number} must be an object {{...}}")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)  # as written: no 1 that a gap turns into 1.0


def _parquet(path: Path, key: str) -> pd.DataFrame:
    with reading(f"{key}: {str(path)!r} is not parquet"):
        frame = pd.read_parquet(io.BytesIO(_bytes(path, key)))
    return frame


FILES: dict[str, Callable[[Path, str], pd.DataFrame]] = {
    ".csv": _csv,
    ".tsv": tsv,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".txt": lines,
}
