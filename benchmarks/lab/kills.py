"""A run that was killed goes on to what it would have been: 40 kills on inline, 10 on Ray.

Each kill is SIGKILL to `fedsim run` and all of its processes, at a moment drawn over what the whole
run takes once its directory is there; one time in three it hits the run that goes on as well. It is
compared with a run that nobody killed: weights after every round, what was captured, what the
attack read, how it was scored, what clients remember, epsilon. Needs no data. Writes
results/lab_kills.json after every kill.

    python benchmarks/run.py lab/kills --inline 40 --ray 10
"""

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.places import RESULTS

from fedsim.files import DRAFT, write_json

FEDSIM = str(Path(sys.executable).with_name("fedsim"))
SMALL = [
    "model.name=builtin:gpt2-tiny", "data.name=builtin:clinic", "data.max_length=16",
    "data.evaluate=16", "federation.clients=3", "federation.clients_per_round=2",
    "federation.rounds=4", "training.batch_size=3",
]  # fmt: skip
FEDAVG = ["training.algorithm=fedavg", "training.mini_batch_size=2", "training.local_epochs=2"]
DP = "fedsgd, dp-sgd within a budget"
RUNS: dict[str, list[str]] = {
    "fedadam, dropout, dager": [
        *SMALL, *FEDAVG, "federation.strategy=fedadam", "training.dropout=true",
        'attack=[{name="dager", clients=[0]}]',
    ],
    "fedsgd, top-k with what is left over, dager": [
        *SMALL, 'defense={name="topk", fraction=0.2, residual=true}',
        'attack=[{name="dager", rounds=[2, 3]}]',
    ],
    DP: [
        *SMALL, 'defense={name="dp-sgd", noise_multiplier=1.0, budget=50.0}', "attack=[]",
    ],
}  # fmt: skip


def fedsim(words: list[str], root: Path, seconds: float | None = None) -> tuple[bool, float]:
    """Run a command; return whether it was killed, and what it took.

    Args:
        words: the command.
        root: of the run; the time that is counted begins when its config is there.
        seconds: after which it is killed.

    Raises:
        SystemExit: it failed on its own.
    """
    child = subprocess.Popen(
        [FEDSIM, *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while child.poll() is None and not (root / "config.toml").exists():
        time.sleep(0.005)
    started = time.perf_counter()
    try:
        _, said = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return True, time.perf_counter() - started
    if child.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(words)}: {said}")
    return False, time.perf_counter() - started


def evidence(root: Path) -> dict[str, Any]:
    """Return what a run came to, times aside."""
    found: dict[str, Any] = {}
    for name in ("rounds.jsonl", "reconstructions.jsonl", "samples.jsonl"):
        path = root / name
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found[name] = [_untimed(json.loads(line)) for line in lines]
    found["summary"] = _untimed(json.loads((root / "summary.json").read_text(encoding="utf-8")))
    for folder in ("captures", "checkpoints", "memory"):
        for path in sorted((root / folder).rglob("*.*")):
            found[path.relative_to(root).as_posix()] = _digest(path)
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {
            key: _untimed(one) for key, one in value.items() if key not in ("seconds", "engine")
        }
        return {key: one for key, one in kept.items() if key != "scoring"}
    return [_untimed(one) for one in value] if isinstance(value, list) else value


def drafts(root: Path) -> list[str]:
    """Return what killed writers left."""
    return [path.name for path in root.rglob(".*.tmp") if DRAFT.fullmatch(path.name)]


def one_kill(
    root: Path, words: list[str], whole: float, expected: Any, lot: random.Random
) -> dict[str, Any]:
    """Start a run, kill it, go on with it; return what that came to."""
    moments, left = [], 0
    command, resume = ["run", *words, "--out", str(root)], ["run", "--out", str(root), "--resume"]
    for _ in range(2 if lot.random() < 1 / 3 else 1):
        moments.append(round(lot.uniform(0.0, whole), 2))
        killed, _ = fedsim(command, root, moments[-1])
        command = resume
        left += len(drafts(root))
        if not killed:
            break
    fedsim(resume, root)
    got = evidence(root)
    differ = sorted(name for name in {**expected, **got} if expected.get(name) != got.get(name))
    return {
        "killed_after_seconds": moments,
        "drafts_after_kills": left,
        "drafts_in_the_end": len(drafts(root)),
        "differs_in": differ,
    }


def measure(engine: str, kills: int, seed: int, record: dict[str, Any], path: Path) -> None:
    """Kill ``kills`` runs on ``engine``, the kinds in turn, and note each."""
    done = record["engines"].setdefault(engine, [])
    whole: dict[str, tuple[float, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        secret = Path(work) / "secret"
        secret.write_text("15" * 16)  # else two runs would differ, killed or not
        for number in range(len(done), kills):
            name = list(RUNS)[number % len(RUNS)]
            words = [*RUNS[name], f"federation.engine={engine}", f"seed={seed}"]
            words += ["--secret", str(secret)] if name == DP else []
            if name not in whole:
                root = Path(work) / f"whole-{len(whole)}"
                _, seconds = fedsim(["run", *words, "--out", str(root)], root)
                whole[name] = seconds, evidence(root)
            lot = random.Random(f"{seed}/{engine}/{number}")
            done.append({"run": name, **one_kill(Path(work) / f"killed-{number}", words,
                                                 *whole[name], lot)})  # fmt: skip
            write_json(path, record)
            print(engine, number + 1, json.dumps(done[-1]), flush=True)


def main() -> None:
    """Kill as many runs as asked for, say how many came out otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inline", type=int, default=40, help="kills (default: %(default)s)")
    parser.add_argument("--ray", type=int, default=10, help="kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of runs and moments")
    parser.add_argument("--out", type=Path, default=RESULTS / "lab_kills.json", help="the result")
    options = parser.parse_args()
    record: dict[str, Any] = {
        "claim": "a run that was killed goes on to what it would have been, and leaves no drafts",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with other work, no GPU",
        "dtype": "float32",
        "seed": options.seed,
        "engines": {},
    }
    for engine, kills in (("inline", options.inline), ("ray", options.ray)):
        measure(engine, kills, options.seed, record, options.out)
    every = [kill for kills in record["engines"].values() for kill in kills]
    record["kills"] = len(every)
    record["came_out_otherwise"] = sum(bool(kill["differs_in"]) for kill in every)
    record["drafts_left"] = sum(kill["drafts_in_the_end"] for kill in every)
    write_json(options.out, record)
    print(f"{len(every)} kills, {record['came_out_otherwise']} came out otherwise, "
          f"{record['drafts_left']} drafts left")  # fmt: skip


if __name__ == "__main__":
    main()
