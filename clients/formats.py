"""From a file to rows: columns stay as they came, words stay words."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from fedsim.errors import BadInput


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
    try:
        text = _bytes(path, key).decode(encoding)
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{key}: {str(path)!r} must be {encoding}, got byte 0x{error.object[error.start]:02x} "
            f"at offset {error.start}"
        ) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def lines(path: Path, key: str, encoding: str = "utf-8") -> pd.DataFrame:
    """Return the lines that are not blank, as texts."""
    # Not str.splitlines: form feeds, 0x85 and the like occur inside sentences.
    text = _text(path, key, encoding)
    return pd.DataFrame({"text": [line for line in text.split("\n") if line.strip()]}, dtype="str")


def _table(path: Path, key: str, **options: Any) -> pd.DataFrame:
    # "NA", "null", "None" are words, not gaps: keep_default_na=False.
    text = _text(path, key)
    try:
        frame: pd.DataFrame = pd.read_csv(
            io.StringIO(text), keep_default_na=False, low_memory=False, **options
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise BadInput(f"{key}: {str(path)!r} is not a table ({one_line(error)})") from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the surplus for an index
        raise BadInput(f"{key}: {str(path)!r} has rows with more cells than its header")
    return frame


def tsv(path: Path, key: str, **options: Any) -> pd.DataFrame:
    """Return a table of tab-separated values."""
    # A quotation mark is a character here, as in the GLUE files: quoting would join their lines.
    return _table(path, key, sep="\t", quoting=csv.QUOTE_NONE, lineterminator="\n", **options)


def _json_lines(path: Path, key: str) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for number, line in enumerate(_text(path, key).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{key}: {str(path)!r}, line {number}: {error}") from error
        if not isinstance(row, dict):
            raise BadInput(f"{key}: {str(path)!r}, line {number} must be an object {{...}}")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)  # as written: no 1 that a gap turns into 1.0


def _parquet(path: Path, key: str) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(_bytes(path, key)))
    except (ValueError, OSError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{key}: {str(path)!r} is not parquet ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


FILES: dict[str, Callable[[Path, str], pd.DataFrame]] = {
    ".csv": _table,
    ".tsv": tsv,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".txt": lines,
}
