"""What the clients of a project train on, drawn by seed from the data beside the checkout."""

import functools
import json
from typing import Any

import torch
from common.places import DATA, need_data

from clients.data import DataSettings, load_corpus
from fedsim.rng import stream

WORDS = range(5, 13)  # of a sentence of SST-2
FEW = 120  # characters of an instruction and its response
HELD = 16  # rows of a central test
SHORT = [
    ("Name a fruit.", " Figs."),
    ("Who has a key?", " Orla."),
    ("Say a day.", " Friday."),
    ("How old is Ivo?", " Nine."),
    ("Name a boat.", " Mina."),
    ("What is red?", " A rose."),
    ("Who sings?", " Tomas."),
    ("Where is it?", " At sea."),
]
Rows = list[dict[str, Any]]


def sentences(clients: int, each: int, seed: int) -> list[Rows]:
    """Return ``{"text", "label"}`` rows of SST-2 for each client, and for a central test."""
    return _dealt(_sst2(), [each] * clients + [HELD], seed)


@functools.cache
def _sst2() -> Rows:
    need_data()
    settings = DataSettings(name="sst2", path=str(DATA / "datasets" / "sst2"), evaluate=0)
    train = load_corpus(settings, seed=1).train
    return [
        {"text": text, "label": int(label)}
        for text, label in dict(zip(train["text"], train["label"], strict=True)).items()
        if len(text.split()) in WORDS
    ]


def instructions(clients: int, each: int, seed: int) -> list[Rows]:
    """Return rows of Alpaca for each client, those of few characters: a step takes seconds."""
    need_data()
    (path,) = sorted((DATA / "datasets" / "alpaca").glob("*.json"))
    whole = json.loads(path.read_text(encoding="utf-8"))
    found = [row for row in whole if len(row["instruction"]) + len(row["output"]) <= FEW]
    return _dealt(found, [each] * clients, seed)


def short_prompts(clients: int, each: int, seed: int) -> list[Rows]:
    """Return rows in Alpaca's columns, of fewer tokens than LoRA's rank: Alpaca has two such."""
    rows = [{"instruction": said, "input": "", "output": answer} for said, answer in SHORT]
    return _dealt(rows, [each] * clients, seed)


def _dealt(found: Rows, sizes: list[int], seed: int) -> list[Rows]:
    if sum(sizes) > len(found):
        raise SystemExit(f"only {len(found)} rows are fit for {sum(sizes)} that are needed")
    order = torch.randperm(len(found), generator=stream(seed, "field", "rows")).tolist()
    dealt = iter(found[row] for row in order)
    return [[next(dealt) for _ in range(size)] for size in sizes]
