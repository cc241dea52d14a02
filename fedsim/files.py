"""Files that are either whole or not there: written beside their place, then moved into it."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from fedsim.errors import MalformedMessage, RunFailed
from fedsim.types import Parameters


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a temporary file beside ``path``, then move it there: all or nothing.

    Raises:
        RunFailed: the disk is full or cannot be written, or the text is no Unicode (half of a
            surrogate pair); the line names the file.
    """
    make_directory(path.parent, wanted=path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, SafetensorError, UnicodeError) as error:
        raise RunFailed(f"could not write {path}: {error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


def make_directory(path: Path, *, wanted: Path | None = None) -> None:
    """Make ``path`` and its parents, where they are not there, for the sake of ``wanted``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFailed(f"could not write {wanted or path}: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write ``value`` to ``path`` atomically, as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """Write ``rows`` to ``path`` atomically, one JSON value a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_tensors(path: Path, tensors: Parameters, metadata: dict[str, str] | None = None) -> None:
    """Write ``tensors`` to ``path`` atomically, as safetensors."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda draft: save_file(ready, draft, metadata=metadata))


def append_line(path: Path, row: object) -> None:
    """Append one JSON value as a line to ``path``."""
    make_directory(path.parent, wanted=path)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except (OSError, UnicodeError) as error:
        raise RunFailed(f"could not write {path}: {error}") from error


def read_json(path: Path) -> Any:
    """Return the JSON value in ``path``; one clear line when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MalformedMessage(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MalformedMessage(f"{path} is not valid JSON: {error}") from error


def read_lines(path: Path) -> Iterator[Any]:
    """Yield the JSON value of each line of ``path``, but not of a last one cut short by a kill."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            if number == len(lines):  # no newline after it: it was never finished
                return
            raise MalformedMessage(f"{path}, line {number} is not valid JSON: {error}") from error
