"""Files that are either whole or not there: written beside their place, then moved into it.

They are their owner's alone, in directories that are: what a run leaves behind is private text, or
numbers from which it can be read.
"""

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

FILE, DIRECTORY = 0o600, 0o700  # modes


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a temporary file beside ``path``, then move it there: all or nothing.

    Raises:
        RunFailed: the disk is full or cannot be written, or the text is no Unicode (half of a
            surrogate pair); the line names the file.
    """
    make_directory(path.parent, wanted=path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE))
        write(draft)
        draft.chmod(FILE)  # whoever wrote it may have made it anew
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, SafetensorError, UnicodeError) as error:
        raise RunFailed(f"could not write {path}: {error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


def make_directory(path: Path, *, wanted: Path | None = None) -> None:
    """Make ``path`` and its parents, where they are not there, for the sake of ``wanted``.

    What is there keeps its mode: somebody else chose it.
    """
    try:
        for folder in reversed([folder for folder in path.parents if not folder.exists()]):
            folder.mkdir(DIRECTORY, exist_ok=True)
        path.mkdir(DIRECTORY, exist_ok=True)
    except OSError as error:
        raise RunFailed(f"could not write {wanted or path}: {error}") from error


def make_private(root: Path) -> None:
    """Give what somebody else's code left below ``root`` the modes of what we write."""
    for path in (root, *root.rglob("*")):
        path.chmod(DIRECTORY if path.is_dir() else FILE)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    write_atomically(path, lambda draft: draft.write_bytes(content))


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
        with open(path, "a", encoding="utf-8", opener=private) as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except (OSError, UnicodeError) as error:
        raise RunFailed(f"could not write {path}: {error}") from error


def private(path: str, flags: int) -> int:
    """Open ``path`` for ``open``, as its owner's alone where it is not there yet."""
    return os.open(path, flags, FILE)


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
    if path.exists():
        yield from parsed_lines(path, path.read_bytes())


def parsed_lines(path: Path, content: bytes) -> Iterator[Any]:
    """Yield the JSON value of each line of ``content``, which is that of ``path``."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            if number == len(lines):  # no newline after it: it was never finished
                return
            raise MalformedMessage(f"{path}, line {number} is not valid JSON: {error}") from error
