"""A directory in which one process works at a time, by a lock of the kernel's.

It ends with the process that holds it, killed or not.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from fedsim.errors import BadInput, RunFailed
from fedsim.files import FILE, drop_drafts, make_directory
from fedsim.lab.store import layout

FOLDER = os.O_RDONLY | os.O_DIRECTORY
OURS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # whatever lies there stays as it is


@contextlib.contextmanager
def held(root: Path, key: str = "--out") -> Iterator[None]:
    """Keep others from working in ``root`` meanwhile; drop what killed ones were writing there.

    Args:
        root: the directory.
        key: what a line of error begins with.

    Raises:
        BadInput: another process works there, or it is no directory.
        RunFailed: it cannot be written, or its file system knows no locks.
    """
    if root.exists() and not root.is_dir():
        raise BadInput(f"{key}: {str(root)!r} is not a directory")
    make_directory(root, wanted=root / layout.CONFIG)
    lock = _lock(root, key)
    try:
        drop_drafts(root, deep=layout.is_ours(root))
        yield
    finally:
        os.close(lock)


def _lock(root: Path, key: str) -> int:
    """Lock the directory itself, which nobody undoes by removing a file.

    Where its file system can lock files alone (NFS), a file in it.
    """
    reason = ""
    for path, flags in ((root, FOLDER), (root / layout.LOCK, OURS)):
        try:
            lock = os.open(path, flags | os.O_CLOEXEC, FILE)
        except OSError as error:
            raise RunFailed(f"could not lock {path}: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            os.close(lock)
            raise BadInput(f"{key}: another process works in {str(root)!r}") from None
        except OSError as error:
            os.close(lock)
            reason = str(error)
    raise RunFailed(f"could not lock {root}: {reason}")
