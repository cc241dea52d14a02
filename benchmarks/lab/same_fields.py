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
from typing import Any, TypeGuard

from pyarrow import parquet  # type: ignore[import-untyped]
from safetensors import safe_open

Fields = dict[str, Any]
"""By where it is: a scalar, a list of scalars, or a text's lines."""

MASK = "<masked>"
MOMENT = frozenset(
    "s,seconds,seconds a run,working,cell_seconds,started,versions,python,machine,git".split(",")
)  # keys and columns
TEXT_MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[^\s<\"]*"), MASK),  # dates
    (re.compile(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d"), MASK),
    (re.compile(r"\b\d[\d,]*(\.\d+)? (s|min|h)\b"), MASK),
    (re.compile(r"\d+\.\d(?= +(leak|no-leak|inconclusive|failed)\b)"), MASK),  # the column "s"
    (re.compile(rf"<dt>([^<]*)\b({'|'.join(MOMENT)})</dt><dd>.*</dd>"), MASK),
    (re.compile(r"(<checkout>)?/\S*/site-packages/"), "<libraries>/"),
    (re.compile(r" +"), " "),  # columns are as wide as the widest time
    (re.compile(r"─+"), "─"),
)
PROGRESS = re.compile(
    r"fedsim|Traceback|Warning|Error|done|failed|results in|stopped|^\d+/\d+ (?!cells)"
)
DRAFT = re.compile(r"(/\.[^/]+)\.\d+\.tmp")  # what a kill leaves has its process' number
HEAD = re.compile(r"<th [^>]*>([^<]*)</th>")
ATTACKS = '<h3 id="table-attacks">'  # how that table begins
CELL = re.compile(r"(?<=>)[^<>]*(?=</td>)")


def comparable(fields: Fields) -> Fields:
    """Return ``fields`` without what is of the moment; what lies below such a key is one field."""
    kept: Fields = {}
    for place, value in _pages_apart(fields):
        file, sign, path = DRAFT.sub(r"\1.tmp", place).partition(":")
        keys = path.split(".")
        moment = next((index for index, key in enumerate(keys) if key in MOMENT), None)
        if moment is None:
            kept[f"{file}{sign}{path}"] = _masked(path, value)
        else:
            kept[f"{file}{sign}{'.'.join(keys[: moment + 1])}"] = MASK
    return kept


def _pages_apart(fields: Fields) -> Iterator[tuple[str, Any]]:
    """Yield ``fields``; a page has no empty lines, and its table of the attacks is a field."""
    for place, value in fields.items():
        if not place.endswith(".html:") or not is_text(value):
            yield place, value
            continue
        lines = [line for line in value if line.strip()]
        first = next((i for i, line in enumerate(lines) if line.startswith(ATTACKS)), len(lines))
        end = next((i for i in range(first, len(lines)) if lines[i] == "</div>"), first - 1) + 1
        yield place, lines[:first] + lines[end:]
        if end > first:
            yield f"{place}table-attacks", lines[first:end]


def _masked(path: str, value: Any) -> Any:
    if isinstance(value, str) and value.startswith("Traceback"):
        return value.rstrip().splitlines()[-1]  # lines of code are not what is compared
    if not is_text(value) or path.startswith("."):  # texts of a JSON file are results
        return value
    lines = [_plain(line) for line in _columns(value)]
    return [line for line in lines if PROGRESS.search(line)] if path == "stderr" else lines


def _plain(line: str) -> str:
    for pattern, mask in TEXT_MASKS:
        line = pattern.sub(mask, line)
    return line.rstrip()


def _columns(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a page; in its tables the columns of times are masked."""
    head: list[str] = []
    for line in lines:
        if line.startswith("<thead>"):
            head = []
        head += HEAD.findall(line)
        yield _row(line, head) if line.startswith("<tr><td") else line


def _row(line: str, head: list[str]) -> str:
    columns = iter(head)
    return CELL.sub(lambda cell: MASK if next(columns, "") in MOMENT else cell[0], line)


def is_text(value: Any) -> TypeGuard[list[str]]:
    """Return whether ``value`` is a text's lines."""
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


def of_output(text: str) -> Any:
    """Return what was printed: a JSON value where it is one, or lines."""
    try:
        return json.loads(text)
    except ValueError:
        return text.splitlines()


def flat(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a JSON value; a list of scalars is a leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{place}.{key}")
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
    table = parquet.read_table(path)
    columns = {name: [str(table.schema.field(name).type), *table[name].to_pylist()]
               for name in table.column_names}  # fmt: skip
    return {"columns": table.column_names, "column": columns}


def _tensors(path: Path) -> Any:
    with safe_open(path, framework="np") as file:
        tensors: Fields = {"metadata": file.metadata()}
        for name in file.keys():
            tensor = file.get_tensor(name)
            digest = hashlib.sha256(tensor.tobytes()).hexdigest()[:16]
            tensors[f"tensor {name}"] = f"{tensor.dtype} {tensor.shape} {digest}"
    return tensors


def _text(path: Path) -> Any:
    return path.read_text(encoding="utf-8").splitlines()


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
        if path.is_file() and path.suffix != ".pyc":
            name = path.relative_to(root).as_posix()
            fields[name] = "a file"
            fields.update(flat(_read(path), f"{name}:"))
    return fields


def _read(path: Path) -> Any:
    try:
        return READERS.get(path.suffix, _bytes)(path)
    except ValueError:  # cut short by a kill, or broken on purpose
        return _bytes(path)
