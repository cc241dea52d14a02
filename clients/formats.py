"""From a file to rows: columns and cells stay as they were written."""

import csv
import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from clients.decoding import UTF8, decoded
from clients.packed import unpacked
from clients.separators import separator, split_hint
from fedsim import limits
from fedsim.errors import BadInput, MalformedFile, quote, reading, shown
from fedsim.files import read_bytes

UNTYPED = (".csv", ".tsv")  # all cells of such files are texts
# A quotation mark is a character there, as in the GLUE files: quoting would join their lines.
UNQUOTED: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
PARQUET, GZIP = ".parquet", ".gz"


def kind_of(name: str) -> str:
    """Return what a file is, by its name: ``.csv`` for ``a.CSV`` and ``a.csv.gz``, too."""
    path = Path(name.lower())
    inner = Path(path.stem).suffix
    return inner if path.suffix == GZIP and inner in TEXTS else path.suffix


def read_file(path: Path, encoding: str = UTF8, key: str = "data.name") -> pd.DataFrame:
    """Return the rows of a file of the user's; a line of error begins with ``key``.

    Raises:
        BadInput: it is of no kind that can be read, or broken.
    """
    kind = kind_of(path.name)
    if kind not in FILES:
        raise BadInput(
            f"{key} must be a file of {', '.join(FILES)}, got {str(path)!r}; one of text may be "
            f"packed, its name then ends in {GZIP}"
        )
    if kind == PARQUET:
        return _parquet(path, key)
    return TEXTS[kind](_text(path, key, encoding), f"{key}: {str(path)!r}")


def _bytes(path: Path, key: str) -> bytes:
    try:
        content = read_bytes(path, most=limits.DATA_BYTES)
    except FileNotFoundError:
        raise BadInput(f"{key}: there is no file {str(path)!r}") from None
    except MalformedFile as error:
        raise BadInput(f"{key}: {error}") from error
    if path.suffix.lower() == GZIP and content:
        content = unpacked(content, f"{key}: {str(path)!r}")
    if not content.strip():
        raise BadInput(f"{key}: the file {str(path)!r} is empty")
    return content


def _text(path: Path, key: str, encoding: str = UTF8) -> str:
    own = key == "data.name"  # of a named data set the encoding is known
    hint = "; say as data.encoding what it is in" if own else ""
    return decoded(_bytes(path, key), encoding, f"{key}: {str(path)!r}", hint)


def lines(path: Path, key: str, encoding: str = UTF8) -> pd.DataFrame:
    """Return the lines that are not blank, as texts."""
    return _lines(_text(path, key, encoding), key)


def _lines(text: str, place: str) -> pd.DataFrame:
    # Not str.splitlines: form feeds, 0x85 and the like occur inside sentences.
    rows = text.replace("\r", "\n").split("\n")
    return pd.DataFrame({"text": [line for line in rows if line.strip()]}, dtype="str")


def _csv(text: str, place: str) -> pd.DataFrame:
    return _separated(text, place, ",")


def _tsv(text: str, place: str) -> pd.DataFrame:
    return _separated(text, place, "\t")


def _separated(text: str, place: str, own: str) -> pd.DataFrame:
    sign, text = split_hint(text)
    sign = sign or separator(text, own, place)
    unquoted = UNQUOTED if sign == own == "\t" else {}
    return _table(text, place, sep=sign, **unquoted)


def _table(text: str, place: str, **options: Any) -> pd.DataFrame:
    # All cells as text: pandas would take 01 for 1. "NA", "null", "None" are words, not gaps.
    with reading(f"{place} is not a table"):
        frame: pd.DataFrame = pd.read_csv(
            io.StringIO(text), keep_default_na=False, low_memory=False, dtype="object", **options
        )
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the surplus for an index
        raise BadInput(f"{place} has rows with more cells than its header")
    return frame


def tsv(path: Path, key: str, **options: Any) -> pd.DataFrame:
    """Return a table of tab-separated values, all of them texts."""
    place = f"{key}: {str(path)!r}"
    return _table(_text(path, key), place, sep="\t", **UNQUOTED, **options)


def _json_lines(text: str, place: str) -> pd.DataFrame:
    rows: list[object] = []
    for number, line in enumerate(text.replace("\r", "\n").split("\n"), start=1):
        if line.strip():
            at = f"{place}, line {number}"
            rows.append(_object(_json_value(line, at), at))
    return pd.DataFrame(rows, dtype=object)  # as written: no 1 that a gap turns into 1.0


def _json(text: str, place: str) -> pd.DataFrame:
    if not text.lstrip().startswith("["):  # many a file of that name has an object a line
        return _json_lines(text, f"{place} (wanted: a list of objects, or an object a line)")
    rows = _json_value(text, place)
    if not rows:
        raise BadInput(f"{place} is an empty list")
    places = (f"{place}, item {number}" for number, _ in enumerate(rows, start=1))
    return pd.DataFrame(list(map(_object, rows, places)), dtype=object)


def _json_value(text: str, place: str) -> Any:
    with reading(place):
        return json.loads(text, parse_float=Decimal)  # 1.10 stays apart from 1.1


def _object(value: object, place: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise BadInput(f"{place} must be an object {{...}}")
    return value


def _parquet(path: Path, key: str) -> pd.DataFrame:
    with reading(f"{key}: {str(path)!r} is not parquet"):
        frame = pd.read_parquet(io.BytesIO(_bytes(path, key)))
    names = list(frame.columns)
    if wrong := [name for name in names if not isinstance(name, str) or names.count(name) > 1]:
        raise BadInput(
            f"{key}: {str(path)!r} must have columns with a text each as name, none twice, got "
            f"{quote(shown(wrong[0]))}"
        )
    return frame


TEXTS: dict[str, Callable[[str, str], pd.DataFrame]] = {  # each takes a text, and its place
    ".csv": _csv,
    ".tsv": _tsv,
    ".json": _json,
    ".jsonl": _json_lines,
    ".txt": _lines,
}
FILES = (*TEXTS, PARQUET)
