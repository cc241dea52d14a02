"""This process's source of workers: started once, early, so that its imports run beside ours."""

import atexit
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.errors import RunFailed
from fedsim.lab.isolation.memory import held_by, left_behind
from fedsim.linux import children, keep_memory_private

PASSED = (
    "CUDA_", "GOMP_", "HF_", "HOME", "KMP_", "LANG", "LC_", "LD_LIBRARY_PATH", "MALLOC_", "MKL_",
    "NVIDIA_", "OMP_", "PATH", "PYTORCH_", "TMPDIR", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TZ",
    "XDG_CACHE_HOME",
)  # fmt: skip
# To look for garbage while all is imported takes a second.
BEGIN = """import gc, sys
gc.disable()
from attacks.worker.forking import main
main(int(sys.argv[1]))"""
OF_MODELS = re.compile(r"transformers\.models\.\w+\.modeling_\w+$")
"""What a worker needs of the model that is here, and takes a second to import."""
SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
LOADING = 600.0  # seconds that its own imports may take
PATIENCE = 60.0  # seconds that it may take to have a worker, or none
ENDING = 5.0  # seconds to clean up after its workers


class Processes:
    """Has workers made and ended, by a process that was started afresh."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", BEGIN, str(theirs.fileno())],
                env=environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # an interrupt at the terminal is for us to pass on
            )
        self._control, self._lock = ours, threading.Lock()
        self.asked = False
        self.workers: set[int] = set()  # processes

    def fork(self, channel: socket.socket, output: int) -> int:
        """Return the process of a new worker that answers over ``channel``.

        Raises:
            RunFailed: attacks cannot be imported by a process of their own.
        """
        path = [os.path.abspath(folder) for folder in sys.path]
        asked = {"path": path, "imports": [name for name in sys.modules if OF_MODELS.match(name)]}
        process = int(self._ask(asked, [channel.fileno(), output])["pid"])
        self.workers.add(process)
        return process

    def end(self, process: int) -> int:
        """End a worker, if it has not ended; return how it did, as ``os.waitpid`` has it."""
        status = int(self._ask({"end": process})["status"])
        self.workers.discard(process)
        return status

    def held_by(self, worker: int) -> int:
        """Return how many bytes ``worker`` and all that it started hold; 0: it is gone."""
        return held_by(worker, self.process, self.workers)

    def left_behind(self) -> bool:
        """Return whether there is something that a worker started and nobody waits for."""
        return bool(left_behind(self.process, self.workers))

    def _ask(self, what: dict[str, Any], files: Sequence[int] = ()) -> dict[str, Any]:
        from attacks.worker.channel import TASK, receive, send  # late: it imports torch

        with self._lock:
            try:
                self._control.settimeout(PATIENCE if self.asked else LOADING)
                self.asked = True
                send(self._control, TASK, json.dumps(what).encode(), files)
                answer = receive(self._control)
            except OSError:  # too late, too
                answer = None
            except BaseException:  # an interrupt: its answer would be taken for the next one's
                self._kill()
                raise
            if answer is None:
                raise RunFailed(f"no process for attacks could be started: {self._last_words()}")
        told: dict[str, Any] = json.loads(answer.content)
        return told

    def _last_words(self) -> str:
        said = self._kill().decode(errors="replace").strip().splitlines()
        return said[-1] if said else "it ended, or did not answer, without a word"

    def _kill(self) -> bytes:
        """End it and its workers, whatever became of it; return what it wrote."""
        self._control.close()
        started = [*children(self.process), *self.workers]
        self._process.kill()  # which ends one that was stopped, too
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError):  # it was heard out before
            return self._process.communicate(timeout=PATIENCE)[1]
        return b""

    @property
    def process(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it, and all workers with it."""
        self._control.close()  # which it sees
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING if self.asked else 0.0)
        self._kill()


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return what a worker's process needs of ``ours``, and no more."""
    kept = {
        name: value
        for name, value in ours.items()
        if name.startswith(PASSED) and not any(word in name for word in SECRET)
    }
    there = [os.path.abspath(folder) for folder in sys.path]
    return {**kept, "PYTHONPATH": os.pathsep.join(there)}


_started: dict[int, Processes] = {}  # by our own process: one that was forked has its own


def processes() -> Processes:
    """Return this process's source of workers, started where it does not run."""
    kept = _started.get(os.getpid())
    if kept is None or not kept.alive:
        keep_memory_private()
        kept = _started[os.getpid()] = Processes()
        atexit.register(kept.close)
    return kept


def none_needed() -> None:
    """End this process's source of workers, if it had none made yet: nothing is to be attacked."""
    kept = _started.get(os.getpid())
    if kept is not None and not kept.asked:
        del _started[os.getpid()]
        atexit.unregister(kept.close)
        kept.close()
