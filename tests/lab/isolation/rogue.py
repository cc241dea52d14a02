# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, attr-defined"
"""An outsider's attacks that misbehave, each in its own way: a package that the tests install."""

import ctypes
import gc
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from attacks import Attack
from attacks.worker import attempt
from attacks.worker.channel import ANSWER, HEAD, MOST, send
from attacks.worker.task import Answer
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Reconstruction


@dataclass(frozen=True, kw_only=True)
class Rogue(Attack):
    """Do what ``how`` says, in place of an attack."""

    how: str = "nothing"
    number: int = 1  # of the task, which it may guess

    def _run(self, seen, generator):
        given = getattr(self, f"_{self.how}")(seen) or ((1, 2),)
        return given if isinstance(given, Reconstruction) else Reconstruction(sequences=given)

    def _nothing(self, seen):
        pass

    def _raise(self, seen):
        raise KeyError("a slip of its author")

    def _leave(self, seen):
        sys.exit(0)

    def _die(self, seen):
        os._exit(7)

    def _crash(self, seen):
        ctypes.string_at(0)

    def _loop(self, seen):
        while True:
            pass

    def _sleep(self, seen):
        time.sleep(1e6)

    def _grow(self, seen):
        kept: list[object] = []
        while True:
            kept.append(bytearray(10**7))

    def _fork(self, seen):  # the child holds on to all it was given
        if not os.fork():
            time.sleep(1e6)
        os._exit(7)

    def _talk(self, seen):
        print("\x1b[31mto the terminal\x1b[0m", flush=True)
        print("to the terminal", file=sys.stderr, flush=True)
        logging.getLogger("fedsim.attacks").info("step %d of 2", 1)

    def _chatter(self, seen):
        while True:
            print("x" * 10_000)
            logging.getLogger("fedsim.attacks").info("x" * 10_000)

    def _vandalise(self, seen):
        for tensor in (*seen.broadcast.parameters.values(), *seen.update.tensors.values()):
            tensor.data.zero_()

    def _look(self, seen):
        return (tuple(int(t.sum()) for t in seen.broadcast.parameters.values()),)

    def _invent(self, seen):
        return ((10**9,),)

    def _flood(self, seen):  # past what its own process looks at
        attempt.Answer = lambda **_: Answer(sequences=[[1] * 2**19] * 3)

    def _signal(self, seen):  # a real-time signal has no name
        os.kill(os.getpid(), 40)

    def _wordless(self, seen):
        raise UnsupportedObservation()

    def _large(self, seen):
        return Reconstruction(sequences=((1, 2),), diagnostics={"x": 10**30})

    def _forever(self, seen):
        attempt.Answer = lambda **_: Answer.model_construct(seconds=float("inf"))

    def _long(self, seen):  # so it says
        _channel().sendall(HEAD.pack(ANSWER, self.number, MOST + 1))
        time.sleep(1e6)

    def _twice(self, seen):
        send(_channel(), ANSWER, b'{"sequences": [[5]]}', number=self.number)

    def _late(self, seen):  # as if it were the answer to the next task
        def answer():
            time.sleep(0.2)
            send(channel, ANSWER, b'{"sequences": [[5]]}', number=self.number + 1)

        channel = _channel()
        threading.Thread(target=answer, daemon=True).start()

    def _two(self, seen):  # both go on, and only one is the worker
        return ((1, 2),) if os.fork() else ((5,),)

    def _family(self, seen):
        for _ in range(6):
            if not os.fork():
                kept.append(bytearray(b"x" * 200_000_000))
                time.sleep(1e6)
        time.sleep(5.0)

    def _nameless(self, seen):  # a file in memory alone
        file = os.memfd_create("rogue")
        for _ in range(150):
            os.write(file, b"x" * 10**7)

    def _after(self, seen):  # when nobody looks
        def grow():
            time.sleep(0.2)
            kept.append(bytearray(b"x" * 1_500_000_000))

        threading.Thread(target=grow, daemon=True).start()
        return _process(os.getpid())

    def _orphan(self, seen):
        words = [sys.executable, "-c", "import time; time.sleep(1e6)"]
        return _process(subprocess.Popen(words, start_new_session=True).pid)

    def _double(self, seen):
        torch.set_default_dtype(torch.float64)

    def _width(self, seen):
        return ((torch.get_default_dtype().itemsize,),)

    def _remember(self, seen):
        os.environ["SEEN"] = str(int(os.environ.get("SEEN", "0")) + 1)
        return ((int(os.environ["SEEN"]),),)


@dataclass(frozen=True, kw_only=True)
class Snoop(Attack):
    """Look for the truth wherever a process can look, and say where it was."""

    vault: str  # as if it had guessed where that is
    marks: tuple[str, ...]  # patterns of what the lab has in memory; none matches itself

    def _run(self, seen, generator):
        found = {
            "modules": sum(
                name.partition(".")[0] in ("clients", "server", "defenses", "flwr", "ray")
                or name.startswith(("fedsim.lab", "fedsim.vault"))
                for name in sys.modules
            ),
            "environment": sum(bool(re.search("KEY|SECRET|TOKEN", name)) for name in os.environ),
            "objects": sum(
                type(one).__name__ in ("Truth", "VaultReader", "VaultKey", "Secret", "Runner")
                for one in gc.get_objects()
            ),
            "frames": self._frames(),
            "files": sum(not re.match("pipe:|socket:|/dev/null|/proc/", one) for one in _open()),
            "sockets": sum(one.startswith("socket:") for one in _open()) - 1,
            "cwd": len(os.listdir(".")),
            "own memory": self._search("self"),
            "the lab's memory": self._lab(),
            "vault": self._vault(),
            "imported": self._imported(),
        }
        return Reconstruction(sequences=(), diagnostics=found)

    def _frames(self):
        frame, found = sys._getframe(), 0
        while frame is not None:
            found += any("truth" in name or "vault" in name for name in frame.f_locals)
            frame = frame.f_back
        return found

    def _lab(self):
        stat = Path(f"/proc/{os.getppid()}/stat").read_text()
        try:
            return self._search(stat.rpartition(")")[2].split()[1])
        except PermissionError:
            return 0

    def _search(self, process):
        patterns, found = [re.compile(mark.encode()) for mark in self.marks], 0
        with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb") as memory:
            for line in maps:
                if " rw-p " not in line:
                    continue
                start, end = (int(number, 16) for number in line.split()[0].split("-"))
                try:
                    memory.seek(start)
                    content = memory.read(end - start)
                except (OSError, OverflowError, ValueError):
                    continue
                found += sum(bool(pattern.search(content)) for pattern in patterns)
        return found

    def _vault(self):
        kept = [path.read_bytes() for path in Path(self.vault).rglob("*.jsonl")]
        return sum(b"tokens" in content for content in kept) if kept else -1

    def _imported(self):
        """What reading the vault by our own code comes to, after all that."""
        from fedsim.vault.reader import VaultReader

        for name in list(os.environ):
            if "KEY" in name:
                return 1
        os.environ["XDG_CONFIG_HOME"] = os.getcwd()  # a key of its own, at best
        try:
            return int(VaultReader(Path(self.vault)).truth(1, 0) is not None)
        except ValueError:
            return 0


kept: list[bytearray] = []


def _process(number):
    return Reconstruction(sequences=(), diagnostics={"process": number})


def _channel():
    for one in _open_sockets():
        try:
            (channel := socket.socket(fileno=os.dup(one))).getpeername()
            return channel
        except OSError:
            continue


def _open_sockets():
    links = {int(one): f"/proc/self/fd/{one}" for one in os.listdir("/proc/self/fd")}
    return [one for one, at in links.items() if _there(one) and "socket:" in os.readlink(at)]


def _open():
    numbers = os.listdir("/proc/self/fd")
    return [os.readlink(f"/proc/self/fd/{one}") for one in numbers if _there(one)]


def _there(number):
    return os.path.lexists(f"/proc/self/fd/{number}")
