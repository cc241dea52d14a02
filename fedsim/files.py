"""Files that are either whole or not there: written beside their place, then moved into it."""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from fedsim.errors import MalformedMessage, RunFailed
from fedsim.types import Parameters

DRAFT = re.compile(r"\..+\.\d+\.tmp")  # of NAME by the process PID: .NAME.PID.tmp


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a file in a folder of its own beside ``path``, then move it: all or none.

    Raises:
        RunFailed: the disk is full or cannot be written, or the text is no Unicode (half of a
            surrogate pair); the line names the file.
    """
    make_directory(path.parent, wanted=path)
    try:
        with _draft_folder(path.with_name(f".{path.name}.{os.getpid()}.tmp")) as folder:
            draft = folder / path.name
            write(draft)
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
    except (OSError, SafetensorError, UnicodeError) as error:
        raise RunFailed(f"could not write {path}: {error}") from error


@contextlib.contextmanager
def _draft_folder(folder: Path) -> Iterator[Path]:
    """Have ``folder`` inside the block, locked: the kernel lets go of it when its writer ends.

    A folder, for safetensors writes beside its file as well, under a name that nobody knows.
    """
    while True:
        folder.mkdir(exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if folder.exists() and folder.stat().st_ino == os.fstat(held).st_ino:
            break
        os.close(held)  # dropped in between, as one that nobody held
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def drop_drafts(root: Path) -> None:
    """Remove what killed processes were writing under ``root``; what is being written stays."""
    for path in list(root.rglob(".*.tmp")):
        if DRAFT.fullmatch(path.name):
            with contextlib.suppress(OSError):  # its writer lives, or it is gone or not ours
                _drop(path)


def _drop(path: Path) -> None:
    held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path) if path.is_dir() else path.unlink()  # files are of earlier versions
    finally:
        os.close(held)


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
