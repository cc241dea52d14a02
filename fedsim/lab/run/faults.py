"""What the exception of a plugin leaves behind: its whole traceback, in a file of the run."""

import re
from pathlib import Path

from fedsim.files import write_text


def keep_traceback(directory: Path, name: str, text: str) -> Path:
    """Write the traceback ``text`` into ``directory``; return where it is.

    Args:
        directory: the run's ``errors``, or what is to be made below it.
        name: of the file; what no file name should hold is written as ``_``.
        text: the traceback, or what else a process left behind.
    """
    path = directory / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.txt"
    # Half of a surrogate pair, which a message may quote, is no text that a file can hold.
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return path
