"""A client's round in a process of its own: where it has so many seconds, and is ended after them.

A thread could only be left alone, and would go on in the workspace that the next client trains in.
What a process had not sent when it was ended touches nothing. It is started once and kept, with the
model and the data in it; a client's seconds are counted from when those are there.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from clients.holdings import ClientSettings, Side
from clients.update import client_update, note_lost, told
from fedsim.errors import ClientFailure
from fedsim.linux import end_with_parent, keep_memory_private
from fedsim.messages import Broadcast, Update

LOADING = 600.0  # seconds that its start, the weights, the model and the data may take
READING, ITS_TIME = "loading the model and the data", "its federation.timeout"

MakeSide = Callable[[ClientSettings, int], Side]


class Apart:
    """The process of the clients: started for the first round, and again after it was ended."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def update(
        self, settings: ClientSettings, client: int, broadcast: Broadcast, side: MakeSide
    ) -> Update:
        """Return what ``client`` answers to ``broadcast``, as ``client_update`` would.

        Raises:
            ClientFailure: it failed, its process died, or it took longer than it may.
        """
        held = 0
        self._start()
        try:
            with self._within(LOADING, READING):
                self._send((settings, client, broadcast, side))
                held = self._receive(LOADING, READING)
            with self._within(settings.timeout, ITS_TIME):
                update: Update = self._receive(settings.timeout, ITS_TIME)
        except ClientFailure:
            raise
        except (EOFError, OSError) as lost:
            late = isinstance(lost, TimeoutError)
            code = self._end(0.0 if late else 1.0)
            failure = ClientFailure(str(lost) if late else f"its process ended, exit code {code}")
            note_lost(settings, client, broadcast, held, failure)
            raise failure from None
        except BaseException:
            self._end()  # in the middle of something
            raise
        return update

    @contextlib.contextmanager
    def _within(self, seconds: float, what: str) -> Iterator[None]:
        """Raise TimeoutError where the process did not read or write all of it in time.

        A pipe waits without end in the middle of what it sends or receives: only the end of the
        process at its other end makes it stop.
        """
        process, late = self._process, threading.Event()
        assert process is not None

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (EOFError, OSError):
            if late.is_set():
                raise _late(seconds, what) from None
            raise
        finally:
            timer.cancel()
            if late.is_set():
                process.join()  # the next client is not to be sent to what is about to end

    def _start(self) -> None:
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
            self._process.start()
            theirs.close()

    def _send(self, task: Any) -> None:
        assert self._pipe is not None
        self._pipe.send_bytes(pickle.dumps(task))

    def _receive(self, seconds: float, what: str) -> Any:
        assert self._pipe is not None
        if not self._pipe.poll(seconds):
            raise _late(seconds, what)
        failed, value = pickle.loads(self._pipe.recv_bytes())
        if failed:
            raise ClientFailure(value)
        return value

    def _end(self, patience: float = 0.0) -> int | None:
        """End the process; return its exit code, its own where it ends within ``patience``."""
        if self._process is None or self._pipe is None:
            return None
        self._process.join(patience)
        self._process.kill()
        self._process.join()
        self._pipe.close()
        code, self._process = self._process.exitcode, None
        return code


def _late(seconds: float, what: str) -> TimeoutError:
    return TimeoutError(f"it took longer than {seconds:g} s ({what})")


_apart = Apart()  # this process's: Ray hands a client app to its workers time and again


def limited_update(
    settings: ClientSettings, client: int, broadcast: Broadcast, side: MakeSide
) -> Update:
    """Return what ``client`` answers within ``settings.timeout``, see :meth:`Apart.update`."""
    return _apart.update(settings, client, broadcast, side)


def _serve(pipe: Connection, parent: int) -> None:
    """Answer what comes through ``pipe``, until its other end is gone."""
    _prepare(parent)
    while True:
        try:
            settings, client, broadcast, side = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            mine = side(settings, client)
            pipe.send_bytes(pickle.dumps((False, len(mine.examples))))
            answer = (False, client_update(settings, client, broadcast, mine))
        except BaseException as error:  # an exit, too
            answer = (True, str(told(settings, client, broadcast.round, error)))
        pipe.send_bytes(pickle.dumps(answer))


def _prepare(parent: int) -> None:
    """Have this process end with its parent, leave Ctrl-C to that, and say nothing of its own.

    Nor is its memory, in which the texts are, for another process of this user to read.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    keep_memory_private()
    if os.getppid() != parent:
        sys.exit(1)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
