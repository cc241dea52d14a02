# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, attr-defined"
"""An outsider's attacks that misbehave, each in its own way: a package that the tests install."""

import ctypes
import gc
import logging
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from attacks import Attack
from attacks.worker import attempt
from attacks.worker.task import Answer
from fedsim.messages import Reconstruction


@dataclass(frozen=True, kw_only=True)
class Rogue(Attack):
    """Do what ``how`` says, in place of an attack."""

    how: str = "nothing"

    def _run(self, seen, generator):
        given = getattr(self, f"_{self.how}")(seen) or ((1, 2),)
        return Reconstruction(sequences=given)

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
        kept = []
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


def _open():
    numbers = os.listdir("/proc/self/fd")
    return [os.readlink(f"/proc/self/fd/{one}") for one in numbers if _there(one)]


def _there(number):
    return os.path.lexists(f"/proc/self/fd/{number}")
