"""The attack of this checkout against that of another: processor time and memory, in turns.

Each measurement is a process of its own, which begins with the checkout's own attack on the same
gradients (same weights, sentences and seeds, made by that checkout, too). Old and new alternate, so
that a machine that others use slows both.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common.places import DATA, ROOT
from common.results import start

BATCHES = ((4, 0), (4, 1), (16, 0))  # size, index: GPT-2 at its real size, Rotten Tomatoes
REPEATS = 6  # attacks in one process; the least time and the median memory count
SCRIPT = """
import ctypes, json, statistics, sys, time
from pathlib import Path
import torch, transformers
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
from attacks import Dager
from clients.data import DataSettings, load_corpus
from fedsim.local import LocalTraining
from fedsim.messages import Broadcast, Observation, Update
from fedsim.models import ModelSpec, load_adapter
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings
data, batches, repeats = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
spec = ModelSpec(name="builtin:gpt2", tokenizer=str(data / "tokenizers" / "gpt2"), weights="random")
model = load_adapter(spec)
parameters = model.initial_parameters()
path = str(data / "datasets" / "rotten_tomatoes")
train = load_corpus(DataSettings(name="rotten_tomatoes", path=path, evaluate=0), seed=1).train
texts, labels = list(train["text"]), list(train["label"])
def high():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
def low():
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
for size, index in batches:
    generator = stream(1, "batch", "rotten_tomatoes", size, index)
    rows = torch.randperm(len(texts), generator=generator)[:size].tolist()
    sequences = tuple(tuple(model.tokenizer(texts[row])["input_ids"]) for row in rows)
    examples = Examples(sequences=sequences, labels=tuple(int(labels[row]) for row in rows))
    train_once = LocalTraining(model, TrainingSettings())
    tensors, _ = train_once(parameters, examples, torch.Generator())
    update = Update(tensors=tensors, kind="gradient", num_examples=size)
    sent = Broadcast(round=1, parameters=parameters)
    observation = Observation(model=model, broadcast=sent, update=update)
    seconds, memory = [], []
    for _ in range(repeats):
        began = time.process_time()
        guess = Dager().reconstruct(observation, stream(1, "attack"))
        seconds.append(time.process_time() - began)
    for _ in range(repeats):  # apart from time: memory given back is slow to take again
        before = low()
        Dager().reconstruct(observation, stream(1, "attack"))
        memory.append((high() - before) / 1e3)
    print(json.dumps({
        "seconds": min(seconds), "megabytes": statistics.median(memory),
        "exact": len(set(guess.sequences) & set(sequences)), "sentences": size,
        "guess": sorted(guess.sequences),
    }))
"""


def measure_against(options: argparse.Namespace) -> None:
    """Measure this checkout against ``options.against``; write results/dager_against.json."""
    claim = "the attack takes the time and memory that it took before"
    model = "GPT-2 at real size, random weights"
    options.threads = 1
    results = start(options, "dager_against", claim, model=model)
    for name, cell in compare(options.against.resolve(), options.turns).items():
        results.add(name, {"turns": options.turns}, cell)
        print(name, "time", cell["time_ratio"], "memory", cell["memory_ratio"], flush=True)


def compare(other: Path, turns: int) -> dict[str, Any]:
    """Return the cells of both checkouts' attacks, batch by batch, and new over old."""
    runs: dict[Path, list[list[dict[str, Any]]]] = {other: [], ROOT: []}
    for turn in range(turns):
        for checkout in (other, ROOT) if turn % 2 == 0 else (ROOT, other):
            runs[checkout].append(_run(checkout))
            print(f"  turn {turn + 1}: {'new' if checkout == ROOT else 'old'}", flush=True)
    cells = {}
    for place, (size, index) in enumerate(BATCHES):
        old, new = ([run[place] for run in runs[checkout]] for checkout in (other, ROOT))
        seconds = [[run["seconds"] for run in side] for side in (old, new)]
        memory = [[run["megabytes"] for run in side] for side in (old, new)]
        cells[f"rotten_tomatoes B={size} batch {index}"] = {
            "old_cpu_seconds": [round(value, 3) for value in seconds[0]],
            "new_cpu_seconds": [round(value, 3) for value in seconds[1]],
            "old_peak_mb": [round(value, 1) for value in memory[0]],
            "new_peak_mb": [round(value, 1) for value in memory[1]],
            "time_ratio": round(median(seconds[1]) / median(seconds[0]), 3),
            "memory_ratio": round(median(memory[1]) / median(memory[0]), 3),
            "same_guess": all(run["guess"] == old[0]["guess"] for run in (*old, *new)),
            "exact": new[0]["exact"],
            "sentences": size,
        }
    return cells | {"all batches": _all(list(cells.values()))}


def _all(cells: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return new over old of the sums: one batch alone moves with the machine's clock."""
    ratios = {}
    for what, unit in (("time", "cpu_seconds"), ("memory", "peak_mb")):
        old, new = (
            sum(median(cell[f"{side}_{unit}"]) for cell in cells) for side in ("old", "new")
        )
        ratios[f"{what}_ratio"] = round(new / old, 3)
    return ratios


def _run(checkout: Path) -> list[dict[str, Any]]:
    """Return what one process of ``checkout`` says of each batch."""
    words = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(DATA)]
    words += [json.dumps(BATCHES), str(REPEATS)]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        words, cwd=checkout, env=environment, check=True, capture_output=True, text=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
