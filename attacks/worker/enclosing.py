"""What a worker shuts, once it was forked, and what it may hold."""

import faulthandler
import os
import resource
import sys
from collections.abc import Sequence

from fedsim.linux import end_with_parent, give_up_privileges, see_no_other, sizes


def enclose(channel: int, output: int, folder: str, path: Sequence[str], parent: int) -> None:
    """Leave this process, just forked, with ``channel`` and ``output`` open and nothing else.

    Args:
        channel: to whom it answers.
        output: a descriptor in place of the terminal.
        folder: an empty directory to be in.
        path: what ``sys.path`` is to be: plugins are found there.
        parent: the process that it was forked from, and is to end with.
    """
    end_with_parent()
    give_up_privileges()
    os.setpgid(0, 0)  # what it starts ends with it
    if os.getppid() != parent:  # it ended before it was to take us with it
        os._exit(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, given in enumerate((nothing, output, output)):
        os.dup2(given, number)
    os.closerange(3, channel)
    os.closerange(channel + 1, os.sysconf("SC_OPEN_MAX"))
    see_no_other()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    os.chdir(folder)
    sys.path[:] = path


def hold_to(memory: int) -> None:
    """Have what would make this process hold more than ``memory`` bytes fail; 0: no limit.

    So it stays until the next call. A GPU's driver reserves more than there is; there the one who
    asks has to look on.
    """
    held, reserved = sizes()
    for limit, allowed in (
        (resource.RLIMIT_DATA, reserved + max(memory - held, 0)),
        (resource.RLIMIT_FSIZE, memory),  # of one file: those that have no name are memory, too
    ):
        _, most = resource.getrlimit(limit)
        resource.setrlimit(limit, (allowed if memory and held else most, most))
