"""What it costs to run attacks in a process of their own: this checkout against one from before.

Both run the same commands in turns, as a user would: the demo's job, and the sweep of
``lab/sweep``. Writes results/isolation.json: seconds by the clock and of the processor (children
among them), of each turn, and what the medians differ by.

    python benchmarks/run.py lab/isolation OLD [--turns 5] [--only demo|sweep]
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common.places import DATA, RESULTS, need_data

HERE = Path(__file__).resolve().parents[2]
RESULT = RESULTS / "isolation.json"
SST2 = ["data.name=sst2", f"data.path={DATA / 'datasets' / 'sst2'}"]
JOBS = {
    "demo": ["run"],
    "sweep": [
        "sweep", "fedsim/lab/config/quick_start.toml", *SST2, "federation.rounds=1",
        "training.algorithm=fedavg", "data.max_length=24", "data.evaluate=872",
        "federation.clients=4", "federation.clients_per_round=4", "training.batch_size=4",
        "training.local_epochs=1,5,20", "training.learning_rate=1e-3,1e-2,1e-1,5e-1",
        "training.mini_batch_size=1,4",
    ],
}  # fmt: skip
ENDED = {"run": (0, 3), "sweep": (0, 3, 4)}  # exit codes; 4: of the sweep's 24 cells one diverges


def timed(checkout: Path, words: list[str], out: str) -> dict[str, float]:
    """Run a command of a checkout to its end; return its seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    given = [str(checkout / word) if word.endswith(".toml") else word for word in words]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fedsim.lab.cli", *given, "--out", out],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode not in ENDED[words[0]]:
        raise SystemExit(
            f"{checkout}: {' '.join(words)} ended with {done.returncode}: {done.stderr}"
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": round(time.perf_counter() - started, 2), "processor": round(processor, 2)}


def measure(old: Path, words: list[str], turns: int) -> dict[str, Any]:
    """Return each turn's times on both sides, and what their medians differ by."""
    sides: dict[str, list[dict[str, float]]] = {"old": [], "new": []}
    with tempfile.TemporaryDirectory() as work:
        for turn in range(-1, turns):  # the first is not counted: files are read from the disk
            for side, checkout in (("old", old), ("new", HERE)):
                took = timed(checkout, words, f"{work}/{side}-{turn}")
                if turn >= 0:
                    sides[side].append(took)
                    print(side, took, flush=True)
    return {**sides, **{key: difference(sides, key) for key in ("seconds", "processor")}}


def difference(sides: dict[str, list[dict[str, float]]], key: str) -> dict[str, float]:
    """Return the medians of both sides, and by how much the new one is more."""
    old, new = (median(turn[key] for turn in sides[side]) for side in ("old", "new"))
    return {"old": old, "new": new, "more": round(new - old, 2), "share": round(new / old - 1, 3)}


def main() -> None:
    """Measure what was asked for; what else is in the result stays."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("old", type=Path, help="a checkout from before")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", choices=JOBS, help="default: both")
    options = parser.parse_args()
    need_data()
    told = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in [options.only] if options.only else JOBS:
        told |= {
            "claim": "attacks in a process of their own cost a few seconds",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores shared, no GPU",
            "dtype": "float32",
            "seed": 1,
            name: measure(options.old.absolute(), JOBS[name], options.turns),
        }
        RESULT.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
