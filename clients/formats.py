"""From a file to rows: columns and cells stay as they were written."""

import csv
import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from clients.separators import separator, split_hint
from fedsim import limits
from fedsim.errors import BadInput, MalformedFile, reading, shown
from fedsim.files import read_bytes

UNTYPED = (".csv", ".tsv")  # all cells of such files are texts
# A quotation mark is a character there, as in the GLUE files: quoting would join their lines.
UNQUOTED: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
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
        content = read_bytes(path, most=limits.DATA_BYTES)
    except FileNotFoundError:
        raise BadInput(f"{key}: there is no file {str(path)!r}") from None
    except MalformedFile as error:
        raise BadInput(f"{key}: {error}") from error
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
    text = _text(path, key, encoding).replace("\r", "\n")
    return pd.DataFrame({"text": [line for line in text.split("\n") if line.strip()]}, dtype="str")


def _csv(path: Path, key: str) -> pd.DataFrame:
    return _separated(path, key, ",")


def _tsv(path: Path, key: str) -> pd.DataFrame:
    return _separated(path, key, "\t")


def _separated(path: Path, key: str, own: str) -> pd.DataFrame:
    sign, text = split_hint(_text(path, key))
    sign = sign or separator(text, own, f"{key}: {str(path)!r}")
    unquoted = UNQUOTED if sign == own == "\t" else {}
    return _table(path, key, text, sep=sign, **unquoted)


def _table(path: Path, key: str, text: str, **options: Any) -> pd.DataFrame:
    # All cells as text: pandas would take 01 for 1. "NA", "null", "None" are words, not gaps.
    with reading(f"{key}: {str(path)!r} is not a table"):
        frame: pd.DataFrame = pd.read_csv(
            io.StringIO(text), keep_default_na=False, low_memory=False, dtype="object", **options
        )
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the surplus for an index
        raise BadInput(f"{key}: {str(path)!r} has rows with more cells than its header")
    return frame


def tsv(path: Path, key: str, **options: Any) -> pd.DataFrame:
    """Return a table of tab-separated values, all of them texts."""
    return _table(path, key, _text(path, key), sep="\t", **UNQUOTED, **options)


def _json_lines(path: Path, key: str) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    text = _text(path, key).replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        with reading(f"{key}: {str(path)!r}, line {number}"):
            row = json.loads(line, parse_float=Decimal)  # 1.10 stays apart from 1.1
        if not isinstance(row, dict):
            raise BadInput(f"{key}: {str(path)!r}, line {number} must be an object {{...}}")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)  # as written: no 1 that a gap turns into 1.0


def _parquet(path: Path, key: str) -> pd.DataFrame:
    with reading(f"{key}: {str(path)!r} is not parquet"):
        frame = pd.read_parquet(io.BytesIO(_bytes(path, key)))
    names = list(frame.columns)
    if wrong := [name for name in names if not isinstance(name, str) or names.count(name) > 1]:
        raise BadInput(
            f"{key}: {str(path)!r} must have columns with a text each as name, none twice, got "
            f"{shown(wrong[0])}"
        )
    return frame


FILES: dict[str, Callable[[Path, str], pd.DataFrame]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".txt": lines,
}
