"""Runs of the whole tool, for measurements of what it says."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim.lab.config import QUICK_START, apply, check, read_toml
from fedsim.lab.display import Silent
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.store.run import RunDirectory


def measure(defense: Any, words: Sequence[str]) -> dict[str, Any]:
    """Run the quick start with ``words`` as overrides; return what its summary says."""
    tree = read_toml(QUICK_START)
    for word in words:
        apply(tree, word)
    tree["defense"] = defense
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        experiment = prepare(check(tree))
        run = RunDirectory(Path(work) / "run")
        run.create(experiment.config)
        summary = run_experiment(experiment, run, Silent())[0].as_dict()
    attacks = summary["attacks"]
    name = tree["attack"][0]["name"] if tree["attack"] else ""
    return {
        "leakage": summary["leakage"].get(name),
        "verdict": summary["verdicts"].get(name),
        "controls": [one["controls"] for one in attacks],
        "samples": sum(one["samples"] for one in attacks),
        "ranks": [one["diagnostics"].get("rank_0") for one in attacks],
        "attack_seconds": [one["seconds"] for one in attacks],
        "utility": summary["utility"],
        "wire": summary["wire"],
        "guarantee": summary["guarantee"],
        "notes": summary["notes"],
        "seconds": round(time.perf_counter() - started, 1),
    }
