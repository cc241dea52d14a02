"""What the exception of a plugin leaves behind: its whole traceback, in a file of the run."""

import re
import traceback
from pathlib import Path

from fedsim.files import write_text
from fedsim.printing import printable_lines


def keep_traceback(directory: Path, name: str, fault: BaseException) -> Path:
    """Write the traceback of ``fault`` into ``directory``; return where it is.

    Args:
        directory: the run's ``errors``, or what is to be made below it.
        name: of the file; what no file name should hold is written as ``_``.
        fault: what was raised.
    """
    path = directory / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.txt"
    text = "".join(traceback.format_exception(fault))
    write_text(path, printable_lines(text))  # for whoever looks at it on a terminal
    return path


def place_of(fault: BaseException, plugin: type) -> str:
    """Return file, line and function in which the code of ``plugin`` was when it failed.

    It is the innermost frame of the plugin's own package: what it called may be torch's.
    """
    package = plugin.__module__.partition(".")[0]
    frames = list(traceback.walk_tb(fault.__traceback__))
    its_own = [
        (frame, line)
        for frame, line in frames
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    frame, line = (its_own or frames)[-1]
    return f"{Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}"
