"""Forks a worker whenever the one at the other end of a socket asks for it.

It asks in JSON, ``{"path": [...], "imports": [...]}`` with a socket and an output for the new
worker, which finds imported what is asked for, as all that come after it; or
``{"end": PID}``, and is told ``{"pid": PID}``, or ``{"status": S}`` as ``os.waitpid`` has it. When
it is gone all workers end, however busy.
"""

import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import socket
import tempfile
import traceback
from pathlib import Path

from attacks.worker.channel import ANSWER, receive, send
from attacks.worker.enclosing import enclose
from attacks.worker.serving import serve
from fedsim.linux import adopt, children, keep_memory_private


class Forker:
    """Has workers, each with an empty directory of its own."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._folders: dict[int, str] = {}  # by process

    def run(self) -> None:
        """Do as asked until nobody asks any more."""
        try:
            while (message := receive(self._control)) is not None:
                asked, files = json.loads(message.content), message.files
                told = {"status": self.end(asked["end"])} if "end" in asked else None
                told = told or {"pid": self.fork(asked["path"], asked["imports"], files)}
                for file in files:
                    os.close(file)
                send(self._control, ANSWER, json.dumps(told).encode())
        finally:
            for process in list(self._folders):
                self.end(process)

    def fork(self, path: list[str], imports: list[str], files: list[int]) -> int:
        """Return the process of a new worker."""
        for name in imports:
            with contextlib.suppress(ImportError):  # the worker says what it lacks
                importlib.import_module(name)
        folder, parent = tempfile.mkdtemp(prefix="fedsim-attack-"), os.getpid()
        process = os.fork()
        if not process:
            try:
                enclose(files[0], files[1], folder, path, parent)
                serve(socket.socket(fileno=files[0]))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        self._folders[process] = folder
        return process

    def end(self, process: int) -> int:
        """End a worker, if it has not ended, and what it started; return how it did."""
        for end in (os.killpg, os.kill):  # it may not have come to have a group
            with contextlib.suppress(ProcessLookupError):
                end(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        shutil.rmtree(self._folders.pop(process), ignore_errors=True)
        while left := set(children()) - set(self._folders):  # in groups of their own, so now ours
            for one in left:
                os.kill(one, signal.SIGKILL)
                os.waitpid(one, 0)
        return status


def main(control: int) -> None:
    """Serve the one at the other end of ``control``; what a worker needs is imported by now."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # where memory ends, let it end here
        Path("/proc/self/oom_score_adj").write_text("1000")
    keep_memory_private()
    adopt()
    gc.freeze()  # what was imported stays, and forks share its pages
    gc.enable()
    Forker(socket.socket(fileno=control)).run()
    os._exit(0)  # to take down what was imported takes long
