"""One table: every defense, what two attacks read in spite of it, what it costs and guarantees.

Leakage (DAGER) and matching (LAMP of few steps, told what its paper is told) are of one round of
FedSGD, plain gradients; utility is of a FedAvg run that learns. The defense is the same in all of
them, and so are its audit, its bytes and its guarantee. Needs the real data beside the checkout
for all but the built-in corpus. Cells that are done stay done: writes results/defenses.json after
each; `defenses/picture` draws them. About 30 minutes of processor time; --wide takes GPT-2 at its
real size besides, ten minutes a cell.

    python benchmarks/run.py defenses/table [--only WORD ...] [--wide]
"""

import argparse
import itertools
import json
import logging
import os
import platform
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from common.corpora import some
from common.places import DATA, RESULTS
from common.runs import measure

from fedsim.errors import BadInput, FedsimError
from fedsim.files import write_json

RECORD = RESULTS / "defenses.json"

Z = [{"name": "dp-sgd", "noise_multiplier": z} for z in (0.1, 0.5, 1.0)]
DEFENSES: dict[str, Any] = {
    "none": "none",
    "float16": {"name": "quantize", "dtype": "float16"},
    "bfloat16": {"name": "quantize", "dtype": "bfloat16"},
    "int8": {"name": "quantize", "dtype": "int8"},
    "int8, stochastic": {"name": "quantize", "dtype": "int8", "rounding": "stochastic"},
    "int4": {"name": "quantize", "dtype": "int4"},
    "sign": "sign",
    "top 10 %": {"name": "topk", "fraction": 0.1},
    "top 1 %": {"name": "topk", "fraction": 0.01},
    "top 1 %, residual": {"name": "topk", "fraction": 0.01, "residual": True},
    "mask 50 %": {"name": "random-mask", "fraction": 0.5},
    "mask 10 %": {"name": "random-mask", "fraction": 0.1},
    "svd 64": {"name": "truncated-svd", "rank": 64},
    "svd 8": {"name": "truncated-svd", "rank": 8},
    "frozen embeddings": {"name": "freeze", "groups": ["embeddings"]},
    "lora 8": {"name": "lora", "rank": 8},
    "lora 128": {"name": "lora", "rank": 128},
    "ffa-lora 128": {"name": "ffa-lora", "rank": 128},
    "dropout 0.1": {"name": "dropout", "rate": 0.1},
    "secagg": "secagg",
    "dp-sgd z=0.1": Z[0],
    "dp-sgd z=0.5": Z[1],
    "dp-sgd z=1": Z[2],
    "gaussian z=0.5": {"name": "gaussian", "clip": 1.0, "noise_multiplier": 0.5},
    "central-dp z=0.5": {"name": "central-dp", "clip": 1.0, "noise_multiplier": 0.5},
    "top 10 %, int8": [{"name": "topk", "fraction": 0.1}, {"name": "quantize", "dtype": "int8"}],
}
TINY = ["model.name=builtin:gpt2-tiny"]
GPT2 = ["model.name=builtin:gpt2", f"model.tokenizer={DATA / 'tokenizers' / 'gpt2'}"]
MINILM = [f"model.name={DATA / 'models' / 'all-MiniLM-L6-v2-fp16'}"]
ROUND = ["federation.clients=4", "federation.rounds=1", "training.algorithm=fedsgd"]


LEAKAGE = {  # one round of FedSGD, attacked by DAGER
    "gpt2-tiny random, sst2": [*TINY, *ROUND, "training.batch_size=4"],
    "gpt2-tiny random, cola": [*TINY, *ROUND, "training.batch_size=4"],
    "gpt2-tiny random, clinic": [*TINY, *ROUND, "training.batch_size=4"],
    "MiniLM trained, sst2": [
        *MINILM, *ROUND, "training.batch_size=2", "federation.clients=3",
        "federation.clients_per_round=3",
    ],
    "MiniLM trained, batch 4, sst2": [*MINILM, *ROUND, "training.batch_size=4"],
}  # fmt: skip
WIDE = {  # at its real width, where casts are to be judged; five clients
    f"gpt2 124M random, batch {batch}, sst2": [
        *GPT2, "federation.clients=5", "federation.clients_per_round=5", "federation.rounds=1",
        "federation.capture=false", "training.algorithm=fedsgd", f"training.batch_size={batch}",
    ]
    for batch in (1, 4)
}  # fmt: skip
MATCHING = {  # one sentence each, so that few steps do
    "gpt2-tiny random, sst2": [
        *TINY, *ROUND, "training.batch_size=1", "federation.clients=3",
        "federation.clients_per_round=3", "data.max_length=12",
    ],
}  # fmt: skip
LEARN = ["training.algorithm=fedavg", "training.optimizer=adamw", "federation.clients=4"]
UTILITY = {  # FedAvg, on held-out data
    "gpt2-tiny random, clinic": [
        *TINY, *LEARN, "training.batch_size=0", "training.mini_batch_size=8",
        "training.local_epochs=2", "training.learning_rate=1e-3", "federation.rounds=2",
        "data.evaluate=128",
    ],
    "MiniLM trained, sst2": [
        *MINILM, *LEARN, "training.batch_size=64", "training.mini_batch_size=16",
        "training.learning_rate=5e-4", "federation.rounds=3", "data.max_length=32",
        "data.evaluate=256",
        'model.freeze=["embeddings", "layers.0", "layers.1", "layers.2", "layers.3"]',
    ],
}  # fmt: skip
CASTS = ("float16", "bfloat16", "int8")
LARGE = ("none", *CASTS, "dp-sgd z=0.5")  # of MiniLM, which is slow
ATTACKS = {
    "leakage": '[{name="dager", max_searches=20}]',
    "matching": '[{name="lamp", steps=60, starts=50, tries=20, every=25, patience=2, '
    'knowledge="paper"}]',
    "utility": "[]",
}
Cell = tuple[str, str, list[str]]


def overrides(kind: str, place: str, base: Sequence[str]) -> list[str]:
    """Return what a cell changes of the quick start."""
    name = place.rpartition(" ")[2]
    held_out = [] if kind == "utility" else ["data.evaluate=0"]
    text = ["data.name=builtin:clinic"] if name == "clinic" else some(name)
    four = ["data.max_length=24", "federation.clients_per_round=4"]
    return [*four, *text, *base, *held_out, f"attack={ATTACKS[kind]}"]


def cells() -> Iterator[Cell]:
    """Yield each cell's key, defense and overrides; those that say most come first."""
    tables = {"leakage": LEAKAGE, "utility": UTILITY, "matching": MATCHING}
    for kind, table in tables.items():
        for place, base in table.items():
            for name in LARGE if "MiniLM" in place else DEFENSES:
                # A Poisson batch of one is often none, or three, which so few steps do not read.
                alone = kind == "matching" and name.startswith("dp-sgd")
                more = [*base, *some("sst2", 2)] if alone else base  # each client holds one row
                yield f"{kind} | {place} | {name}", name, overrides(kind, place, more)
            if kind == "leakage" and "gpt2" in place:
                yield from few(place, base)


def few(place: str, base: Sequence[str]) -> Iterator[Cell]:
    """Yield a sum of few enough tokens, and int8 with a loss that drowns no token."""
    for name, defense, one in (
        ("secagg, 1 sentence each", "secagg", "training.batch_size=1"),
        ("int8, causal-lm", "int8", "model.task=causal-lm"),
    ):
        more = overrides("leakage", place, [*base, one])
        yield f"leakage | {place} | {name}", defense, more


def wide() -> Iterator[Cell]:
    """Yield the cells of GPT-2 at its real size."""
    for name, (place, base) in itertools.product(CASTS, WIDE.items()):
        more = overrides("leakage", place, base)
        yield f"leakage | {place} | {name}", name, more


def load() -> dict[str, Any]:
    """Return the record so far."""
    if RECORD.exists():
        return dict(json.loads(RECORD.read_text(encoding="utf-8")))
    return {
        "claim": "what each defense leaves to DAGER and LAMP, what it costs, what it guarantees",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with other work, no GPU",
        "dtype": "float32",
        "seed": 1,
        "cells": {},
    }


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="cells whose key has all these words")
    parser.add_argument("--wide", action="store_true", help="GPT-2 at its real size, too")
    options = parser.parse_args()
    torch.set_num_threads(1)

    logging.getLogger("flwr").setLevel(logging.ERROR)
    record = load()
    for key, name, words in itertools.chain(cells(), wide() if options.wide else ()):
        if key in record["cells"] or not all(word in key for word in options.only):
            continue
        try:
            found = measure(DEFENSES[name], words)
        except BadInput as error:  # a defense that is not here yet is no result
            print(key, "skipped:", error, flush=True)
            continue
        except FedsimError as error:
            found = {"failed": f"{type(error).__name__}: {error}"}
        record = load()
        record["cells"][key] = found
        write_json(RECORD, record)
        print(key, json.dumps(short(found)), flush=True)


def short(cell: dict[str, Any]) -> dict[str, Any]:
    """Return the few figures of a cell that a log needs."""
    if "failed" in cell:
        return cell
    leakage, utility = cell["leakage"] or {}, cell["utility"] or {}
    return {
        "exact": leakage.get("exact_match", {}).get("mean"),
        "bag_f1": leakage.get("bag_f1", {}).get("mean"),
        "verdict": (cell["verdict"] or {}).get("verdict"),
        "after": utility.get("after"),
        "bytes": cell["wire"].get("bytes_up"),
        "seconds": cell["seconds"],
    }


if __name__ == "__main__":
    main()
