"""Captures that were made to break an attack end within its limits, whichever attack it is.

The update of a client on a tiny preset, gradient or delta, is changed in one of some 30 ways
(`hostile_ways.py`): weights and updates that are zero, huge, equal, no numbers, of another rank or
of nobody; settings and counts that ask for more than there is. Each attack then has a few seconds
and little memory. It may read, find nothing, refuse in one line or be ended by its limits; a
traceback, an attempt that goes on 3 s beyond its time, or a worker that holds a quarter more than
its memory is a failure. Writes results/lab_hostile.json after every attack.

    python benchmarks/run.py lab/hostile [--attack NAME ...] [--way NAME ...]
"""

import argparse
import io
import json
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from common.places import RESULTS
from lab.hostile_ways import WAYS, Captured

from attacks import attack_table
from fedsim.errors import FedsimError
from fedsim.files import read_json, write_json
from fedsim.lab.cli import main as fedsim
from fedsim.lab.display import Silent
from fedsim.lab.isolation.processes import processes
from fedsim.lab.isolation.worker import GB, attack_worker
from fedsim.lab.run.replay import prepare_replay, run_replay

SECONDS, MEMORY = 5.0, 2.0  # seconds and GB of one attempt
LATE, ABOVE = 3.0, 1.25  # seconds after its end, and share of its memory, that count as within
LINE = 2000  # characters of what is said
LESS = {
    "lti": ("samples=64", "step=1", "passes=1", "width=32", "features=128"),
    "dlg": ("steps=40",), "tag": ("steps=40",), "lamp": ("steps=40",),
    "partial": ("steps=40", "layers=[0]"), "grab": ("steps=40", "alternations=1"),
}  # fmt: skip
"""Settings under which an attack gets somewhere in its seconds."""
BASES = {
    "gradient": ("builtin:gpt2-tiny", ()),
    "next tokens": ("builtin:gpt2-tiny", ("model.task=causal-lm",)),
    "delta": (
        "builtin:bert-tiny",
        ("training.algorithm=fedavg", "training.mini_batch_size=1", "training.local_epochs=2"),
    ),
}


WRITERS = ("film",)  # attacks that need a language model; the others are of a classifier


@contextmanager
def watched(most: list[int]) -> Iterator[None]:
    """Have ``most`` hold the greatest number of bytes that the worker holds in the block."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            numbers = attack_worker().numbers()
            if numbers:
                most.append(processes().held_by(numbers[0]))
                most[:] = [max(most)]

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def attempt(attack: str, captures: Path, texts: Path, tally: Counter[str]) -> str:
    """Attack once; return what is wrong with how it ended, "" where nothing is."""
    kind = attack_table()[attack]
    words = [f"seconds={SECONDS:g}", f"memory={MEMORY:g}", *LESS.get(attack, ())]
    asked = "candidates" in kind.needs
    files = {name: texts / f"{name}.jsonl" for name in ("public", "truth") if asked}
    most, out = [0], captures.parent / "out"
    try:
        with watched(most), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            replay = prepare_replay(captures, attack, words, out, **files)
            run_replay(replay, Silent())
    except FedsimError as error:
        tally["refused"] += 1
        return f"a line of {len(str(error))} characters" if len(str(error)) > LINE else ""
    except BaseException as error:
        tally["failed"] += 1
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {error}"[:300]
    rows = [json.loads(line) for line in (out / "reconstructions.jsonl").read_text().splitlines()]
    for row in rows:
        tally["an error in a line" if row.get("error") else "ran"] += 1
    slowest = max((row["seconds"] for row in rows), default=0.0)
    tally["slowest, ms"] = max(tally["slowest, ms"], int(1000 * slowest))
    tally["largest, MB"] = max(tally["largest, MB"], max(most) // 10**6)
    late = f"an attempt took {slowest:.1f} s" if slowest > SECONDS + LATE else ""
    return late or (
        f"its worker held {max(most) / GB:.2f} GB" if max(most) > ABOVE * MEMORY * GB else ""
    )


def base(root: Path, name: str) -> Path:
    """Return the capture of one client's round, made by a run."""
    model, training = BASES[name]
    words = [
        f"model.name={model}", "data.name=builtin:clinic", "data.max_length=12", "data.evaluate=0",
        "federation.clients=1", "federation.clients_per_round=1", "federation.rounds=1",
        "training.batch_size=2", "attack=[]", *training, "--out", str(root / name), "--json",
    ]  # fmt: skip
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert fedsim(["run", *words]) == 0
    return root / name / "captures" / "round=1" / "client=0"


def measure(attack: str, ways: list[str], folder: Path, bases: dict[str, Path]) -> dict[str, Any]:
    """Return what came of each way to spoil each of the captures."""
    tally, faults = Counter[str](), dict[str, str]()
    for file, several in (("public", 400), ("truth", 2)):
        rows = [
            {"client": 0, "text": f"{file}: room {n} has a cough", "label": n % 2}
            for n in range(several)
        ]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    started = time.monotonic()
    for name, place in bases.items():
        for way in ways:
            with tempfile.TemporaryDirectory(dir=folder) as spoiled:
                root = Path(spoiled) / "captures"
                captured = Captured.read(place)
                WAYS[way](captured)
                captured.write(root / "round=1" / "client=0")
                if wrong := attempt(attack, root, folder, tally):
                    faults[f"{name}, {way}"] = wrong
                tally["captures"] += 1
    return {**tally, "faults": faults, "seconds": round(time.monotonic() - started)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "lab_hostile.json")
    parser.add_argument("--attack", nargs="+", default=list(attack_table()))
    parser.add_argument("--way", nargs="+", default=list(WAYS), choices=list(WAYS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = read_json(options.out) if options.out.exists() else {}
    record["claim"] = "captures made to break an attack end within its limits"
    record["limits"] = {"seconds": SECONDS, "gigabytes": MEMORY}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        bases = {name: base(folder, name) for name in BASES}
        for attack in options.attack:
            fit = [name for name in bases if (name == "next tokens") == (attack in WRITERS)]
            figures = measure(attack, options.way, folder, {name: bases[name] for name in fit})
            print(attack, figures, flush=True)
            record.setdefault("attacks", {})[attack] = figures
            write_json(options.out, record)


if __name__ == "__main__":
    main()
