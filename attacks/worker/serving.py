"""The worker itself: it answers tasks until nobody asks, and each of them once."""

import _thread
import contextlib
import logging
import os
import pickle
import socket
from dataclasses import replace

from typing_extensions import override

from attacks.worker.attempt import attempted
from attacks.worker.channel import ANSWER, LAST, STEP, receive, send
from attacks.worker.enclosing import hold_to
from attacks.worker.task import Answer, Task
from fedsim.errors import LEFT_OUT

LOGGER = "fedsim.attacks"  # whose lines of level INFO are progress
STEP_MOST = 500  # characters of such a line


def serve(channel: socket.socket) -> None:
    """Answer tasks until the other end is gone."""
    worker = os.getpid()
    while (message := receive(channel)) is not None:
        number, content, files = message.number, message.content, message.files
        task, *tables = pickle.loads(content)  # from the one who started this process
        tensors = [table.mapped(file) for table, file in zip(tables, files, strict=True)]
        for file in files:
            os.close(file)
        broadcast = replace(task.broadcast, parameters=tensors[0])
        answer = answered(
            replace(task, broadcast=broadcast, update=replace(task.update, tensors=tensors[1])),
            Teller(channel, number, texts=task.texts),
        )
        if os.getpid() != worker:  # a child of the attack's, which is not asked
            os._exit(0)
        kind = LAST if goes_on() else ANSWER
        send(channel, kind, answer.model_dump_json().encode(), number=number)


def answered(task: Task, teller: "Teller") -> Answer:
    """Return the answer to ``task``, whose progress ``teller`` hears of."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO if task.tells else logging.WARNING)
    logger.propagate, logger.handlers = False, [teller]
    hold_to(task.memory if task.device == "cpu" else 0)
    return attempted(task)


def goes_on() -> bool:
    """Return whether something that the attack started goes on after its answer."""
    ended = 1
    with contextlib.suppress(ChildProcessError):  # there is none
        while ended:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        return True
    return _thread._count() > 0  # Python's: those of OpenMP wait for work


class Teller(logging.Handler):
    """Sends what attacks log as progress on the task of a number."""

    def __init__(self, channel: socket.socket, number: int, *, texts: bool) -> None:
        super().__init__(logging.INFO)
        self._channel, self._number, self._worker = channel, number, os.getpid()
        self._texts = texts

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Send the record's message, if there is anything to say."""
        line = record.getMessage() if self._texts else numbers_of(record)
        if line and os.getpid() == self._worker:
            text = line[:STEP_MOST].encode("utf-8", "backslashreplace")
            send(self._channel, STEP, text, number=self._number)


def numbers_of(record: logging.LogRecord) -> str:
    """Return the line of ``record`` with its numbers: whatever else it is given may be a text.

    A line that comes in one piece may hold one anywhere: "" then.
    """
    given = record.args if isinstance(record.args, tuple) else ()
    numbers = tuple(one if isinstance(one, int | float) else LEFT_OUT for one in given)
    try:
        return str(record.msg) % numbers if numbers else ""
    except (TypeError, ValueError):
        return ""
