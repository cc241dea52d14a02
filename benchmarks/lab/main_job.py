"""The main job at real size: how much of real sentences one round of FedSGD gives away.

Each cell is one `fedsim run` in a process of its own, so that its peak memory is its own. Needs the
real data beside the checkout; without it there is nothing to measure. Writes results/main_job.json.

    python benchmarks/run.py lab/main_job
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.places import DATA, RESULTS, need_data

FEDSIM = Path(sys.executable).with_name("fedsim")
GPT2 = ["model.name=builtin:gpt2", f"model.tokenizer={DATA / 'tokenizers' / 'gpt2'}"]
STORIES = [f"model.name={DATA / 'models' / 'stories260K-hf'}", "model.task=causal-lm"]


def cells() -> dict[str, list[str]]:
    """Return each cell's overrides of the quick start."""
    found = {
        f"gpt2 random, {name}, 2 clients x batch 4": [
            *GPT2, f"data.name={name}", f"data.path={DATA / 'datasets' / name}", "data.evaluate=64",
            "federation.clients=2", "federation.clients_per_round=2", "federation.rounds=1",
            "training.batch_size=4",
        ]
        for name in ("sst2", "cola", "rotten_tomatoes")
    }  # fmt: skip
    found["stories260K trained, sst2, causal-lm, batch 1, at most 32 tokens"] = [
        *STORIES, "data.name=sst2", f"data.path={DATA / 'datasets' / 'sst2'}", "data.max_length=32",
        "data.evaluate=64", "federation.clients=50", "federation.clients_per_round=50",
        "federation.rounds=1", "training.batch_size=1",
    ]  # fmt: skip
    return found


def measure(overrides: list[str]) -> dict[str, Any]:
    """Run one cell; return its leakage, time and peak memory."""
    with tempfile.TemporaryDirectory() as work:
        command = [str(FEDSIM), "run", *overrides, "--out", f"{work}/run", "--json"]
        started = time.perf_counter()
        with open(f"{work}/summary.json", "w+", encoding="utf-8") as output:
            child = subprocess.Popen(command, stdout=output)
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - started
            if status:
                raise SystemExit(f"{' '.join(command)} failed")
            output.seek(0)
            summary = json.load(output)
    attacks = summary["attacks"]
    return {
        "leakage": summary["leakage"]["dager"],
        "verdict": summary["verdicts"]["dager"]["verdict"],
        "samples": sum(one["samples"] for one in attacks),
        "attack_seconds_per_update": [one["seconds"] for one in attacks],
        "seconds": round(seconds, 1),
        "peak_memory_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
        "notes": summary["notes"],
    }


def main() -> None:
    """Measure every cell, print it, write all of them."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    need_data()
    results = {}
    for name, overrides in cells().items():
        results[name] = measure(overrides)
        exact = results[name]["leakage"]
        print(name, json.dumps(exact.get("exact_match_but_last", exact["exact_match"])), flush=True)
    record = {
        "claim": "one FedSGD round gives real sentences away exactly",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with other work, no GPU",
        "dtype": "float32",
        "seed": 1,
        "cells": results,
    }
    path = RESULTS / "main_job.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
