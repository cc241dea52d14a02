"""The worker itself: it shuts what it need not have, then answers tasks until nobody asks."""

import contextlib
import ctypes
import faulthandler
import logging
import os
import pickle
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from typing_extensions import override

from attacks.worker.attempt import attempted
from attacks.worker.channel import ANSWER, STEP, receive, send
from attacks.worker.task import Answer, Task

LOGGER = "fedsim.attacks"  # whose lines of level INFO are progress
STEP_MOST = 500  # characters of such a line
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
CAPABILITIES = 0x20080522  # linux/capability.h, version 3


def enclose(
    channel: socket.socket, output: int, folder: str, path: Sequence[str], parent: int
) -> None:
    """Leave this process, just forked, with ``channel`` and ``output`` open and nothing else.

    Args:
        channel: to whom it answers.
        output: a descriptor in place of the terminal.
        folder: an empty directory to be in.
        path: what ``sys.path`` is to be: plugins are found there.
        parent: the process that it was forked from, and is to end with.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
        libc.capset(header, (ctypes.c_uint32 * 6)())  # root's, too: it may read no other's memory
        with contextlib.suppress(OSError):  # where memory ends, let it end here
            Path("/proc/self/oom_score_adj").write_text("1000")
    os.setpgid(0, 0)  # what it starts ends with it
    if os.getppid() != parent:  # it ended before it was to take us with it
        os._exit(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, given in enumerate((nothing, output, output)):
        os.dup2(given, number)
    kept = channel.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    os.chdir(folder)
    sys.path[:] = path


def serve(channel: socket.socket) -> None:
    """Answer tasks until the other end is gone."""
    while (message := receive(channel)) is not None:
        _, content, files = message
        task, *tables = pickle.loads(content)  # from the one who started this process
        tensors = [table.mapped(file) for table, file in zip(tables, files, strict=True)]
        for file in files:
            os.close(file)
        broadcast = replace(task.broadcast, parameters=tensors[0])
        answer = answered(
            replace(task, broadcast=broadcast, update=replace(task.update, tensors=tensors[1])),
            channel,
        )
        send(channel, ANSWER, answer.model_dump_json().encode())


def answered(task: Task, channel: socket.socket) -> Answer:
    """Return the answer to ``task``, telling its progress over ``channel``."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO if task.tells else logging.WARNING)
    logger.propagate, logger.handlers = False, [Teller(channel)]
    with held_to(task.memory if task.device == "cpu" else 0):
        return attempted(task)


@contextlib.contextmanager
def held_to(memory: int) -> Iterator[None]:
    """Have what would make this process hold more than ``memory`` bytes fail; 0: no limit.

    A GPU's driver reserves more than there is; there the one who asks has to look on.
    """
    held, reserved = sizes()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if memory and held:
        allowed = reserved + max(memory - held, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def sizes(process: int | str = "self") -> tuple[int, int]:
    """Return how many bytes a process holds in memory, and has reserved for data; 0: not known."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:
        return 0, 0
    size = resource.getpagesize()
    return int(pages[1]) * size, int(pages[5]) * size


class Teller(logging.Handler):
    """Sends what attacks log as progress."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__(logging.INFO)
        self._channel = channel

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Send the record's message."""
        text = record.getMessage()[:STEP_MOST]
        send(self._channel, STEP, text.encode("utf-8", "backslashreplace"))
