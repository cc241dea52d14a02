"""What the exception of a plugin leaves behind: its whole traceback, in a file of the run."""

import re
from pathlib import Path

from fedsim.files import write_text
from fedsim.printing import printable_lines


def keep_traceback(directory: Path, name: str, text: str) -> Path:
    """Write the traceback ``text`` into ``directory``; return where it is.

    Args:
        directory: the run's ``errors``, or what is to be made below it.
        name: of the file; what no file name should hold is written as ``_``.
        text: the traceback, or what else a process left behind.
    """
    path = directory / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.txt"
    write_text(path, printable_lines(text))  # for whoever looks at it on a terminal
    return path
