"""Forks a worker whenever the one at the other end of a socket asks for it.

It asks in JSON, ``{"path": [...]}`` with a socket and an output for the new worker, or
``{"end": PID}``, and is told ``{"pid": PID}``, or ``{"status": S}`` as ``os.waitpid`` has it. When
it is gone all workers end, however busy.
"""

import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import tempfile
import traceback

from attacks.worker.channel import ANSWER, receive, send
from attacks.worker.serving import enclose, serve


class Forker:
    """Has workers, each with an empty directory of its own."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._folders: dict[int, str] = {}  # by process

    def run(self) -> None:
        """Do as asked until nobody asks any more."""
        try:
            while (message := receive(self._control)) is not None:
                _, content, files = message
                asked = json.loads(content)
                told = {"status": self.end(asked["end"])} if "end" in asked else None
                told = told or {"pid": self.fork(asked["path"], files)}
                for file in files:
                    os.close(file)
                send(self._control, ANSWER, json.dumps(told).encode())
        finally:
            for process in list(self._folders):
                self.end(process)

    def fork(self, path: list[str], files: list[int]) -> int:
        """Return the process of a new worker."""
        folder, parent = tempfile.mkdtemp(prefix="fedsim-attack-"), os.getpid()
        process = os.fork()
        if not process:
            try:
                channel = socket.socket(fileno=files[0])
                enclose(channel, files[1], folder, path, parent)
                serve(channel)
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
        return status


def main(control: int) -> None:
    """Serve the one at the other end of ``control``; what a worker needs is imported by now."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what was imported stays, and forks share its pages
    gc.enable()
    Forker(socket.socket(fileno=control)).run()
    os._exit(0)  # to take down what was imported takes long
