"""What is asked of Linux about processes; elsewhere nothing is asked, and nothing holds."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
"""Of linux/prctl.h."""

CAPABILITIES = 0x20080522  # linux/capability.h, version 3
CREATE_RULESET, RESTRICT_SELF = 444, 446  # Landlock's calls, of the same number on any machine
VERSION = 1  # the flag of the first that asks which version there is
NETWORK, SIGNALS = 4, 6  # versions from which on it knows these
BIND_TCP, SCOPE_SIGNAL = 1, 2  # linux/landlock.h


def keep_memory_private() -> None:
    """Have no other process of this user read this one's memory, a debugger's neither."""
    _prctl(PR_SET_DUMPABLE, 0)


def end_with_parent() -> None:
    """Have this process end when the one does that started it."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt() -> None:
    """Have this process be the parent of what its children leave behind."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def give_up_privileges() -> None:
    """Leave this process, and what it starts, no capability, root's neither."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if sys.platform == "linux":
        header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
        ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())


def see_no_other() -> None:
    """Have this process, and what it starts, look into no other process and signal none.

    By Landlock, whose domains do not see out of themselves, whoever is outside and whatever it let
    others do; from Linux 6.7 on, and signals from 6.12 on. :func:`give_up_privileges` comes before.
    """
    if sys.platform != "linux":
        return
    system = ctypes.CDLL(None).syscall
    version = system(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION)
    if version < NETWORK:  # or none at all; a rule about files would stand in a library's way
        return
    # A domain must forbid something: signals where that is known, else what nobody here does.
    forbidden = [0, 0, SCOPE_SIGNAL] if version >= SIGNALS else [0, BIND_TCP]
    rules = (ctypes.c_uint64 * len(forbidden))(*forbidden)
    made = system(CREATE_RULESET, rules, ctypes.c_size_t(8 * len(forbidden)), 0)
    if made >= 0:
        system(RESTRICT_SELF, made, 0)
        os.close(made)


def sizes(process: int | str = "self") -> tuple[int, int]:
    """Return how many bytes a process holds in memory, and has reserved for data; 0: not known."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:
        return 0, 0
    size = resource.getpagesize()
    return int(pages[1]) * size, int(pages[5]) * size


def children(process: int | str = "self") -> Iterator[int]:
    """Yield the processes that ``process`` is the parent of; none where nothing tells."""
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, tasks.read_text().split())


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
