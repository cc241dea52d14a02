"""A directory in which one process works at a time, by a lock of the kernel's.

It ends with the process that holds it, killed or not. The file of it stays, and means nothing.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fedsim.errors import BadInput, RunFailed
from fedsim.files import drop_drafts, make_directory, private
from fedsim.lab.store import layout


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """Keep others from working in ``root`` meanwhile; drop what killed ones were writing there.

    Raises:
        BadInput: another process works there, or it is no directory.
        RunFailed: it cannot be written, or its file system knows no locks.
    """
    if root.exists() and not root.is_dir():
        raise BadInput(f"--out: {str(root)!r} is not a directory")
    make_directory(root, wanted=root / layout.LOCK)
    with _locked(root):
        drop_drafts(root)
        yield


def _locked(root: Path) -> IO[str]:
    path = root / layout.LOCK
    try:
        file = open(path, "w", opener=private)
    except OSError as error:
        raise RunFailed(f"could not write {path}: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if isinstance(error, BlockingIOError):
            raise BadInput(f"--out: another process works in {str(root)!r}") from None
        raise RunFailed(f"could not lock {path}: {error}") from error
    return file
