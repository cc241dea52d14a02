"""What a run left behind, as fields that can be compared: file by file, value by value.

What differs from one run of the same code to the next is masked: times, dates, versions, the
machine, temporary names. All else counts, to the last digit.
"""

import csv
import hashlib
import io
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

Fields = dict[str, Any]
"""By where it is: a scalar, a list of scalars, or a text's lines."""

MASK = "<masked>"
OF_THE_MOMENT = frozenset(
    "seconds working cell_seconds started versions python machine git".split()
)  # keys and columns
TEXT_MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[^\s<\"]*"), MASK),  # dates
    (re.compile(r"\b\d[\d,]*(\.\d+)? (s|min|h)\b"), MASK),
    (re.compile(r"\d+\.\d(?= +(leak|no-leak|inconclusive|failed)\b)"), MASK),  # the column "s"
    (re.compile(r" +"), " "),  # columns are as wide as the widest time
    (re.compile(r"─+"), "─"),
)
PROGRESS = re.compile(r"fedsim|Traceback|Warning|Error|done|failed|results in|stopped|^\d+/\d+ ")


def of_text(text: str) -> list[str]:
    """Return the lines of ``text``, masked."""
    for pattern, mask in TEXT_MASKS:
        text = pattern.sub(mask, text)
    return [line.rstrip() for line in text.splitlines()]


def of_progress(text: str) -> list[str]:
    """Return the lines of stderr that do not depend on how fast it went."""
    return [line for line in of_text(text) if PROGRESS.search(line)]


def of_output(text: str) -> Any:
    """Return what was printed: a JSON value where it is one, or lines."""
    try:
        return json.loads(text)
    except ValueError:
        return of_text(text)


def flat(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a JSON value, masked by key; a list of scalars is a leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            masked = MASK if key in OF_THE_MOMENT else inner
            yield from flat(masked, f"{place}.{key}")
        if not value:
            yield place, {}
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for index, inner in enumerate(value):
            yield from flat(inner, f"{place}.{index}")
    else:
        yield place, value


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> Any:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _toml(path: Path) -> Any:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _csv(path: Path) -> Any:
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    head = rows[0] if rows else []
    return [dict(zip(head, row, strict=True)) for row in rows[1:]] or head


def _parquet(path: Path) -> Any:
    frame = pd.read_parquet(path)
    columns = {name: json.loads(frame[name].to_json(orient="values")) for name in frame}
    return {"columns": list(frame.columns), **{f"column {k}": v for k, v in columns.items()}}


def _tensors(path: Path) -> Any:
    with safe_open(path, framework="np") as file:
        found: Fields = {"metadata": file.metadata()}
        for name in file.keys():
            tensor = file.get_tensor(name)
            digest = hashlib.sha256(tensor.tobytes()).hexdigest()[:16]
            found[f"tensor {name}"] = f"{tensor.dtype} {tensor.shape} {digest}"
    return found


def _text(path: Path) -> Any:
    return of_text(path.read_text(encoding="utf-8"))


def _bytes(path: Path) -> Any:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": _json, ".jsonl": _lines, ".toml": _toml, ".csv": _csv, ".parquet": _parquet,
    ".safetensors": _tensors, ".html": _text, ".svg": _text, ".md": _text, ".xml": _text,
}  # fmt: skip


def of_directory(root: Path) -> Fields:
    """Return every field of every file under ``root``; a file that is empty is one field."""
    fields: Fields = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            name = path.relative_to(root).as_posix()
            fields[name] = "a file"
            fields.update(flat(_read(path), f"{name}:"))
    return fields


def _read(path: Path) -> Any:
    try:
        return READERS.get(path.suffix, _bytes)(path)
    except ValueError:  # cut short by a kill, or broken on purpose
        return _bytes(path)
