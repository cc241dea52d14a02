"""Files that are either whole or not there: written beside their place, then moved into it.

They are their owner's alone, in directories that are: what a run leaves behind is private text, or
numbers from which it can be read. And they are read as what anybody may have put there: only
regular files, no more of them than can be meant.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from fedsim import limits
from fedsim.errors import MalformedFile, RunFailed

CHUNK = 2**16  # bytes
FILE, DIRECTORY = 0o600, 0o700  # modes
DRAFT = re.compile(r"\.fedsim-.+\.\d+\.tmp")  # of NAME by the process PID


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a file in a folder of its own beside ``path``, then move it: all or none.

    Raises:
        RunFailed: the disk is full or cannot be written, or the text is no Unicode (half of a
            surrogate pair); the line names the file.
    """
    make_directory(path.parent, wanted=path)
    try:
        with draft_folder(path) as folder:
            draft = folder / path.name
            write(draft)
            draft.chmod(FILE)
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
    except (OSError, SafetensorError, UnicodeError) as error:
        raise RunFailed(f"could not write {path}: {error}") from error


@contextlib.contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """Have a folder beside ``path`` inside the block, locked: until its writer ends, it stays.

    A folder, for safetensors writes beside its file as well, under a name that nobody knows.
    """
    folder = path.with_name(f".fedsim-{path.name}.{os.getpid()}.tmp")
    while True:
        folder.mkdir(DIRECTORY, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if folder.exists() and folder.stat().st_ino == os.fstat(held).st_ino:
            break
        os.close(held)  # dropped in between, as if nobody held it
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def drop_drafts(root: Path, *, deep: bool) -> None:
    """Remove what killed processes were writing in ``root``; what is being written stays.

    ``deep``: and below it. Not in a folder that is not ours: it may be somebody's home.
    """
    for path in list((root.rglob if deep else root.glob)(".fedsim-*.tmp")):
        if DRAFT.fullmatch(path.name):
            with contextlib.suppress(OSError):  # its writer lives, or it is gone or not ours
                _drop(path)


def _drop(path: Path) -> None:
    held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    finally:
        os.close(held)


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


def write_tensors(
    path: Path, tensors: Mapping[str, Any], metadata: dict[str, str] | None = None
) -> None:
    """Write torch's ``tensors`` to ``path`` atomically, as safetensors."""
    from safetensors.torch import save_file  # a tap has no torch

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


def read_bytes(path: Path, *, most: int) -> bytes:
    """Return what is in ``path``.

    Raises:
        FileNotFoundError: there is no such file.
        MalformedFile: it is none that can be read, or has more than ``most`` bytes.
    """
    with _opened(path) as file:
        data = _read(file, most)
    if len(data) > most:
        raise MalformedFile(f"{path} is too large: more than {most:,} bytes")
    return data


def _read(file: BinaryIO, most: int) -> bytes:
    """Return what is in ``file``, or one byte more than ``most`` of it."""
    size = os.fstat(file.fileno()).st_size
    data = file.read(min(size, most) + 1)  # Python takes the memory for all that it is asked for
    while size < len(data) <= most and (more := file.read(min(CHUNK, most + 1 - len(data)))):
        data += more  # files of /proc have no size
    return data


def read_text(path: Path, *, most: int) -> str:
    """Return the text in ``path``, UTF-8 with or without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        MalformedFile: it is none that can be read, no text, or has more than ``most`` bytes.
    """
    data = read_bytes(path, most=most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedFile(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """Return the JSON value in ``path``; one clear line when it is missing or broken."""
    try:
        with _opened(path) as file:
            data = _read(file, limits.JSON_BYTES)
    except FileNotFoundError:
        raise MalformedFile(f"{path} is missing") from None
    return parse_json(data, str(path))


def read_lines(path: Path) -> Iterator[Any]:
    """Yield the JSON value of each line of ``path``, but not of a last one cut short by a kill."""
    try:
        opened = _opened(path)
    except FileNotFoundError:
        return
    with opened as file:
        yield from parsed_lines(path, file)


def parsed_lines(path: Path, file: BinaryIO) -> Iterator[Any]:
    """Yield the JSON value of each line of ``file``, which holds what ``path`` does."""
    number = 0
    while line := file.readline(limits.JSON_BYTES + 1):
        number += 1
        if not line.strip():
            continue
        try:
            yield parse_json(line, f"{path}, line {number}")
        except MalformedFile as error:
            torn = isinstance(error.__cause__, json.JSONDecodeError | UnicodeDecodeError)
            if torn and not line.endswith(b"\n"):  # it was never finished
                return
            raise


def parse_json(data: bytes, place: str) -> Any:
    """Return the JSON value in ``data``: not too deep, and of integers of 64 bits.

    As Python has it, JSON knows infinity: whether a number may be infinite, its schema says.

    Raises:
        MalformedFile: it is none; the line begins with ``place``.
    """
    parts = data.count(b"[") + data.count(b"{")  # as in UTF-8, which is all that is read
    if len(data) > limits.JSON_BYTES:
        raise MalformedFile(f"{place} is too large: more than {limits.JSON_BYTES:,} bytes")
    if parts > limits.PARTS:
        raise MalformedFile(f"{place} is too large: more than {limits.PARTS:,} tables and lists")
    try:
        text = data.decode("utf-8-sig")  # json itself would take UTF-16 as well
        value = json.loads(text, parse_int=_integer if _LONG.search(data) else None)
    except RecursionError:
        raise MalformedFile(f"{place} is nested too deeply") from None
    except ValueError as error:
        raise MalformedFile(f"{place} is not valid JSON: {error}") from error
    if parts > limits.DEEPEST and too_deep(value):
        raise MalformedFile(f"{place} is nested too deeply")
    return value


def too_deep(value: Any) -> bool:
    """Return whether tables and lists lie in one another more than ``limits.DEEPEST`` deep."""
    layer = [value]
    for _ in range(limits.DEEPEST):
        parts = [part for part in layer if isinstance(part, dict | list)]
        layer = [x for part in parts for x in (part.values() if isinstance(part, dict) else part)]
        if not layer:
            return False
    return any(isinstance(part, dict | list) for part in layer)


def check_regular(path: Path) -> None:
    """Raise MalformedFile where there is something at ``path`` that is no file: it may never end.

    What is not there is no matter of this function.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise MalformedFile(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(mode):
        raise MalformedFile(f"{path} cannot be read: it is no regular file")


def _opened(path: Path) -> BinaryIO:
    check_regular(path)
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise MalformedFile(f"{path} cannot be read: {error}") from error


_LONG = re.compile(rb"\d{19}")  # a number that may be too large


def _integer(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) > limits.INTEGER:
        raise ValueError(f"an integer must have 64 bits, got one of {len(text)} digits")
    return value
