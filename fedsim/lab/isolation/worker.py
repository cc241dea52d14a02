"""Attempts in a worker, under limits; where one had to be ended, the next has a new worker."""

import functools
import logging
import os
import pickle
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass, replace
from typing import Protocol

from pydantic import ValidationError

from attacks.worker.channel import ANSWER, HEAD, LAST, MOST, STEP, TASK, send
from attacks.worker.serving import LOGGER
from attacks.worker.shared import SharedTensors
from attacks.worker.task import LONGEST, WHOLE, Answer, Task
from fedsim.errors import MalformedMessage, RunFailed
from fedsim.lab.isolation.memory import spare_memory
from fedsim.lab.isolation.processes import Processes, processes
from fedsim.messages import Broadcast

INTERVAL = 0.05  # seconds between looks at the memory
PART = 2**20  # bytes to read at once
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one attempt may take."""

    seconds: float
    memory: float = 0.0  # GB; 0: most of what is free when it starts


class Attempts(Protocol):
    """Where attacks run."""

    def attempt(self, task: Task, limits: Limits) -> Answer:
        """Return what came of ``task``; whatever goes wrong is the answer's error."""


class Ended(Exception):
    """The worker is gone, or has to go; says why."""


class AttackWorker:
    """Runs attacks in one process that has what it is given and nothing else.

    It is kept from one attempt to the next of the same attack, and replaced for another one, where
    it had to be ended, where it did what it was not asked for, and where what is installed changed.
    """

    def __init__(self) -> None:
        self._worker: _Worker | None = None
        self._made_for: tuple[str, str, list[str]] | None = None
        self._sent: tuple[Broadcast, SharedTensors] | None = None  # a round's clients share it

    def attempt(self, task: Task, limits: Limits) -> Answer:
        """Return what came of ``task``; whatever goes wrong is the answer's error."""
        memory = int(limits.memory * GB) or spare_memory()
        worker, started = self._current(task), time.monotonic()
        try:
            worker.hand(replace(task, memory=memory), self._shared(task.broadcast))
            answer = worker.answer(limits, memory)
            if not worker.idle():
                self._drop()
            return answer
        except Ended as reason:
            status, said = self._drop()
            return Answer(
                seconds=time.monotonic() - started,
                error=f"{task.label} {str(reason) or how(status)}"[:LONGEST],
                traceback=said,
            )
        except BaseException:  # an interrupt: what it was at is nobody's any more
            self._drop()
            raise

    def close(self) -> None:
        """End the worker; the next attempt has a new one."""
        self._drop()

    def numbers(self) -> tuple[int, ...]:
        """Return the processes of the worker and of its source; none before the first attempt."""
        worker = self._worker
        return () if worker is None else (worker.process, worker.source.process)

    def _current(self, task: Task) -> "_Worker":
        """Return a worker that waits for ``task``, or a new one."""
        source, wanted = processes(), (task.attack, task.label, list(sys.path))
        worker = self._worker
        fits = worker and self._made_for == wanted and worker.source is source and worker.idle()
        if not fits:
            self._drop()
        if self._worker is None:
            try:
                self._worker = _Worker(processes())
            except RunFailed:  # what an attack did to its source, or nothing that a new one mends
                self._worker = _Worker(processes())
            self._made_for = wanted
        return self._worker

    def _drop(self) -> tuple[int, str]:
        """End the worker; return how it did, and what it wrote last."""
        worker, self._worker = self._worker, None
        return worker.end() if worker else (0, "")

    def _shared(self, broadcast: Broadcast) -> SharedTensors:
        if self._sent is None or self._sent[0] is not broadcast:
            self._sent = None  # before the next takes as much
            self._sent = broadcast, SharedTensors(broadcast.parameters)
        return self._sent[1]


def how(status: int) -> str:
    """Return how a process ended, from what ``os.waitpid`` says."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        named = {one.value: one.name for one in signal.Signals}  # those in between have no name
        return f"ended its process by {named.get(number, f'signal {number}')}"
    return f"ended its process with code {os.waitstatus_to_exitcode(status)}"


class _Worker:
    """One worker process, from its start to its end."""

    def __init__(self, source: Processes) -> None:
        self.source = source
        self._channel, theirs = socket.socketpair()
        self._output, output = os.pipe()
        try:
            self.process = source.fork(theirs, output)
        except BaseException:
            self._channel.close()
            os.close(self._output)
            raise
        finally:
            theirs.close()
            os.close(output)
        self._number = 0  # of its task
        self._last = False  # whether it says that it is to have no other
        self._said = b""  # the last of what it wrote
        self._heard = bytearray()  # of a message that is not whole yet
        os.set_blocking(self._output, False)

    def hand(self, task: Task, broadcast: SharedTensors) -> None:
        """Give it a task."""
        update = SharedTensors(task.update.tensors)
        bare = replace(
            task,
            broadcast=replace(task.broadcast, parameters={}),
            update=replace(task.update, tensors={}),
        )
        content = pickle.dumps((bare, broadcast.places, update.places))
        self._number += 1
        try:
            files = [broadcast.file, update.file]
            send(self._channel, TASK, content, files, number=self._number)
        except OSError as error:
            raise Ended from error

    def answer(self, limits: Limits, memory: int) -> Answer:
        """Wait for its answer, and look what it takes.

        Raises:
            Ended: it died, took too long or too much, or what it says makes no sense.
        """
        end = time.monotonic() + limits.seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._output, selectors.EVENT_READ)
            while True:
                heard = selector.select(INTERVAL)
                for key, _ in heard:
                    if key.fileobj is self._channel:
                        if (answer := self._hear()) is not None:
                            return answer
                    elif not self._keep():
                        selector.unregister(self._output)
                if time.monotonic() > end:
                    raise Ended(f"took longer than attack.seconds = {limits.seconds:g} allows")
                self._look(memory, heard=bool(heard))

    def _look(self, memory: int, *, heard: bool) -> None:
        """Raise Ended where it holds more than ``memory``, or nothing, since it is gone."""
        held = self.source.held_by(self.process)
        if memory and held > memory:
            raise Ended(
                f"took {held / GB:.3g} GB of memory, attack.memory allows {memory / GB:.3g}"
            )
        if not held and not heard and sys.platform == "linux":  # others may hold its channel open
            raise Ended

    def _hear(self) -> Answer | None:
        """Read what came; return the answer, if it is there."""
        try:
            part = self._channel.recv(PART)
        except OSError:
            part = b""
        if not part:
            raise Ended
        self._heard += part
        while len(self._heard) >= HEAD.size:
            kind, number, length = HEAD.unpack(self._heard[: HEAD.size])
            if kind not in (ANSWER, LAST, STEP) or length > MOST:
                raise Ended("gave an answer that cannot be read")
            if number != self._number:
                raise Ended("gave an answer that nobody asked for")
            if len(self._heard) < HEAD.size + length:
                break
            content = bytes(self._heard[HEAD.size : HEAD.size + length])
            del self._heard[: HEAD.size + length]
            if kind != STEP:
                self._last = kind == LAST
                return _checked(content)
            logging.getLogger(LOGGER).info("%s", content.decode(errors="replace"))
        return None

    def idle(self) -> bool:
        """Return whether it waits for a task, and has nothing else at work."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            speaks = bool(self._heard or selector.select(0))
        return not (self._last or speaks or self.source.left_behind())

    def _keep(self) -> bool:
        """Keep the last of what it wrote; return whether more may come."""
        try:
            part = os.read(self._output, PART)
        except BlockingIOError:
            return True
        self._said = (self._said + part)[-WHOLE:]
        return bool(part)

    def end(self) -> tuple[int, str]:
        """End it; return how it ended, as ``os.waitpid`` has it, and what it wrote last."""
        self._channel.close()
        try:
            status = self.source.end(self.process)
        except RunFailed:  # its source is gone, or was ended, and took it along
            status = int(signal.SIGKILL)
        self._keep()
        os.close(self._output)
        return status, self._said.decode(errors="replace")


def _checked(content: bytes) -> Answer:
    try:
        answer = Answer.model_validate_json(content)
        answer.guess()
        return answer
    except MalformedMessage as error:
        raise Ended(f"gave an answer that makes no sense: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise Ended(f"gave an answer that makes no sense: {place}: {first['msg']}") from error


def attack_worker() -> AttackWorker:
    """Return where this process has its attacks run."""
    return _of(os.getpid())


@functools.cache
def _of(owner: int) -> AttackWorker:
    return AttackWorker()  # a process that was forked has its own
