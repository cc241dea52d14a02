"""Whatever a file on disk says, reading it ends well or in one line: never a traceback or a hang.

Each reader is given the files of real runs, changed by a seed: bytes, values, names, and things
that are no files. What may come of it: it is read, or refused in one line (exit code 2). A
traceback, more than 10 s, or more than 1 GB of memory is a failure, and its seed and number are
noted: ``--reader NAME --seed S --only N`` does it again. Writes results/lab_fuzz.json.

    python benchmarks/run.py lab/fuzz [--minutes 1] [--seed 1] [--reader NAME ...] [--only N]
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common.places import RESULTS
from lab.fuzz_readers import READERS, Reader, Scene, build
from lab.mutations import mutations

from fedsim.errors import FedsimError
from fedsim.files import read_json, write_json

SECONDS, BYTES, LINE = 10.0, 2**30, 2000  # of one read; characters of what is said
SPECIAL = ("fifo", "directory", "device", "gone", "empty")


class Hang(BaseException):
    """A read took too long; nothing catches this."""


@dataclass
class Tally:
    """What came of the mutations of one reader."""

    outcomes: Counter[str] = field(default_factory=Counter)  # read | refused | failed
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)  # by where they were raised
    longest: float = 0.0
    number: int = 0


def fuzz(
    reader: Reader, scene: Scene, seed: int, going: Callable[[int, float], bool], only: int = -1
) -> Tally:
    """Mutate and read as long as ``going`` (number, seconds) says; ``only``: this number alone."""
    tally, began = Tally(), time.monotonic()
    chance = random.Random(f"{seed}/{reader.name}")
    files = reader.files(scene)
    streams = {path: mutations(path.read_bytes(), reader.kind, chance) for path in files}
    kept = scene.contents()
    while going(tally.number, time.monotonic() - began):
        path = chance.choice(files)
        special = chance.choice(SPECIAL) if chance.random() < 0.01 and reader.special else ""
        data = b"" if special else next(streams[path])
        if only < 0 or tally.number == only:
            _put(path, data, special)
            _one(reader, scene, tally, f"{path.name}: {special or data[:300]!r}")
            _clear(path)
            scene.restore(kept)
        tally.number += 1
    return tally


def _put(path: Path, data: bytes, special: str) -> None:
    path.unlink()  # others may be linked to it
    if special == "fifo":
        os.mkfifo(path)
    elif special == "directory":
        path.mkdir()
    elif special == "device":
        path.symlink_to("/dev/zero")
    elif special != "gone":
        path.write_bytes(data)


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _one(reader: Reader, scene: Scene, tally: Tally, what: str) -> None:
    started, fault = time.monotonic(), ""
    try:
        with _limited(), contextlib.redirect_stdout(io.StringIO()):
            reader.read(scene)
        outcome = "read"
    except FedsimError as error:
        outcome = "refused"
        if len(str(error)) > LINE:
            outcome, fault = "failed", f"a line of {len(str(error))} characters: {str(error)[:100]}"
    except Hang:
        outcome, fault = "failed", f"more than {SECONDS:g} s"
    except MemoryError:
        outcome, fault = "failed", "more than 1 GB"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [at for at in traceback.extract_tb(error.__traceback__) if "/fedsim/" in at.filename]
        at = ours[-1] if ours else last
        where = f"{Path(at.filename).name}:{at.lineno}"
        outcome, fault = "failed", f"{type(error).__name__} at {where}: {str(error)[:100]}"
    tally.longest = max(tally.longest, time.monotonic() - started)
    tally.outcomes[outcome] += 1
    if fault:
        key = fault.partition(": ")[0]
        known = tally.faults.setdefault(
            key, {"count": 0, "number": tally.number, "fault": fault, "what": what}
        )
        known["count"] += 1


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise Hang in the block after ``SECONDS``."""

    def late(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(reader: Reader, scene: Scene, options: argparse.Namespace) -> dict[str, Any]:
    """Fuzz one reader in a process of its own, whose memory is limited; return its figures."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.close(out)
        try:
            _child(reader, scene, options, into)
        finally:  # it must not go on as its parent does
            traceback.print_exc()
            os._exit(1)
    os.close(into)
    with os.fdopen(out) as told:
        text = told.read()
    _, status, used = os.wait4(child, 0)
    if not text:
        return {"mutations": 0, "tracebacks": 1, "died": status}
    return {**json.loads(text), "megabytes": round(used.ru_maxrss / 1024)}


def _child(reader: Reader, scene: Scene, options: argparse.Namespace, into: int) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
    stop = options.only + 1 if options.only >= 0 else 10**12
    limit = 60 * options.minutes if options.only < 0 else 1e9
    tally = fuzz(
        reader, scene, options.seed, lambda n, seconds: n < stop and seconds < limit, options.only
    )
    figures = {
        "mutations": tally.number,
        **{name: tally.outcomes[name] for name in ("read", "refused", "failed")},
        "longest_seconds": round(tally.longest, 2),
        "faults": tally.faults,
    }
    with os.fdopen(into, "w") as told:
        json.dump(figures, told)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "lab_fuzz.json")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", nargs="+", default=list(READERS), choices=list(READERS))
    parser.add_argument("--only", type=int, default=-1, help="this mutation alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = read_json(options.out) if options.out.exists() else {}
    record["claim"] = "whatever a file says, reading it ends well or in one line"
    with tempfile.TemporaryDirectory() as folder:
        whole = build(Path(folder) / "whole")
        for name in options.reader:
            copy = Path(folder) / name.replace(" ", "-")
            shutil.copytree(whole.root, copy, symlinks=True)
            figures = measure(READERS[name], Scene(copy), options)
            print(name, {k: v for k, v in figures.items() if k != "faults"}, flush=True)
            for fault in figures.get("faults", {}).values():
                print("   ", fault, file=sys.stderr, flush=True)
            if options.only < 0:
                settings = {"seed": options.seed, "minutes": options.minutes}
                record.setdefault("readers", {})[name] = settings | figures
                write_json(options.out, record)
            shutil.rmtree(copy)


if __name__ == "__main__":
    main()
