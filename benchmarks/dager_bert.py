"""DAGER on encoders: how much of a BERT's batch one FedSGD gradient gives away, and how fast.

Trained weights (all-MiniLM-L6-v2, width 384) and random ones of BERT-base's size (width 768; three
blocks, as the attack reads two and the last one's gradient shows [CLS] alone). Each cell is a
process of its own, so that its peak memory is its own.
Needs the real data beside the checkout. Writes results/dager_bert.json.

    python benchmarks/dager_bert.py
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig

from attacks import Dager
from clients.named import find_rows
from fedsim.lab.metrics import Pair, match, sample_metrics
from fedsim.messages import Broadcast, Observation, Tokens, Update
from fedsim.models import ModelAdapter, ModelSpec, load_adapter

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("FEDSIM_DATA", HERE.parents[1] / "shared" / "data"))
LENGTHS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 112, 120, 128)
SETS = ("cola", "sst2", "rotten_tomatoes")
CELLS = [
    *(("minilm", "wikitext2", 1, 20), ("base", "wikitext2", 1, 4)),
    *(("minilm", name, size, 10) for size in (2, 4) for name in SETS),
    *(("base", name, 4, 3) for name in SETS),
    *(("minilm", name, 8, count) for name, count in zip(SETS, (5, 5, 2), strict=True)),
]


def load(kind: str) -> ModelAdapter:
    """Return the model called ``kind``."""
    if kind == "minilm":
        return load_adapter(ModelSpec(name=str(DATA / "models" / "all-MiniLM-L6-v2-fp16")))
    folder = tempfile.mkdtemp()
    BertConfig(num_hidden_layers=3).save_pretrained(folder)
    tokenizer = str(DATA / "tokenizers" / "bert-base-uncased")
    return load_adapter(ModelSpec(name=folder, tokenizer=tokenizer, weights="random"))


def batches(model: ModelAdapter, name: str, size: int, count: int) -> list[list[Tokens]]:
    """Return ``count`` batches: drawn by seeds 0, 1, ... or, of WikiText, of given lengths."""
    frame = find_rows(name, str(DATA / "datasets" / name)).train
    texts = [t.strip() for t in frame["text" if "text" in frame else "sentence"] if t.strip()]
    if name == "wikitext2":
        ids = model.tokenizer(" ".join(texts[:200]), add_special_tokens=False)["input_ids"]
        lengths = LENGTHS if count == len(LENGTHS) else LENGTHS[-1::-5][:count]
        starts = [200 * place for place in range(count)]
        cut = [ids[s : s + length - 2] for s, length in zip(starts, lengths, strict=True)]
        return [[(*model.prefix, *one, *model.suffix)] for one in cut]
    drawn = []
    for seed in range(count):
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
        some = [texts[row] for row in order[:size].tolist()]
        drawn.append([tuple(ids) for ids in model.tokenizer(some)["input_ids"]])
    return drawn


def gradient(model: ModelAdapter, batch: list[Tokens], seed: int) -> dict[str, torch.Tensor]:
    """Return the gradient of the mean classification loss, labels drawn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (len(batch),), generator=generator).tolist()
    module = model.module
    module.zero_grad(set_to_none=True)
    module(**model.batch(batch, labels, generator)).loss.backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def score(model: ModelAdapter, truth: list[Tokens], guesses: list[Tokens]) -> list[dict[str, Any]]:
    """Return the metrics of each sentence, paired one to one, special tokens dropped."""
    strip = [[t for t in ids if t not in model.special] for ids in (*truth, *guesses)]
    plain = [tuple(ids) for ids in strip if ids]
    truths, found = plain[: len(plain) - len(guesses)], plain[len(plain) - len(guesses) :]
    if not truths:  # [CLS] [SEP]
        return [{"exact_match": float(guesses == truth), "rouge1": 100.0, "rouge2": 100.0}]
    metrics = []
    for one, place in zip(truths, match(truths, found), strict=True):
        guess = () if place is None else found[place]
        texts = [model.tokenizer.decode(ids) for ids in (one, guess)]
        pair = Pair(truth=one, guess=guess, truth_text=texts[0], guess_text=texts[1])
        metrics.append(sample_metrics(pair, but_last=False))
    return metrics


def measure(kind: str, name: str, size: int, count: int) -> dict[str, Any]:
    """Attack each batch of one cell; return its scores, times and peak memory."""
    torch.set_num_threads(1)
    model = load(kind)
    parameters = model.initial_parameters()
    scores, seconds, notes = [], [], []
    truth = batches(model, name, size, count)
    for seed, batch in enumerate(truth):
        model.load(parameters)
        update = Update(
            tensors=gradient(model, batch, seed), kind="gradient", num_examples=len(batch)
        )
        broadcast = Broadcast(round=1, parameters=parameters)
        started = time.perf_counter()
        guess = Dager().reconstruct(
            Observation(model=model, broadcast=broadcast, update=update),
            torch.Generator().manual_seed(seed),
        )
        seconds.append(round(time.perf_counter() - started, 1))
        scores += score(model, batch, list(guess.sequences))
        notes.append(guess.diagnostics)
    names = ("exact_match", "rouge1", "rouge2")
    return {
        "batches": count,
        "sentences": len(scores),
        "tokens_per_batch": [sum(map(len, batch)) for batch in truth],
        **{one: round(statistics.mean(s[one] for s in scores), 4) for one in names},
        "candidates": [note["candidates"] for note in notes],
        "solves": [note["solves"] for note in notes],
        "best_effort": sum(bool(note["best_effort"]) for note in notes),
        "seconds": seconds,
        "seconds_median": statistics.median(seconds),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }


def main() -> None:
    """Measure every cell in a process of its own, print it, write all of them."""
    if not DATA.is_dir():
        raise SystemExit(f"nothing to measure: {DATA.name} is not beside the checkout")
    record: dict[str, Any] = {
        "claim": "one FedSGD gradient of an encoder gives its batch away, lengths unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with other work, no GPU",
        "dtype": "float32",
        "threads": 1,
        "seeds": "0, 1, ... of the batch, the labels and the attack",
        "cells": {},
    }
    path = HERE / "results" / "dager_bert.json"
    for cell in CELLS:
        command = [sys.executable, __file__, *map(str, cell)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        label = f"{cell[0]}, {cell[1]}, batch {cell[2]}"
        record["cells"][label] = json.loads(output.splitlines()[-1])
        print(label, output.splitlines()[-1], flush=True)
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
