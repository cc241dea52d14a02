"""What the measurements of gradient matching share: one attack on one update, resumable cells.

Nothing is measured here. A cell is a list of updates, each attacked and stored at once: a killed
run goes on where it was. Text is scored as in `fedsim run` (special tokens dropped, one to one)
and in the papers' convention (special tokens kept) beside it.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
from common.attempts import having, score
from common.places import RESULTS, need_data
from common.results import Cell
from common.victims import Pool, Victim

from attacks import Attack
from defenses import Defense
from defenses.base import Here, Memory
from fedsim.errors import UnsupportedObservation
from fedsim.files import write_json
from fedsim.lab.run.attacking import in_force
from fedsim.lab.scoring.intervals import cluster_interval
from fedsim.lab.scoring.metrics import paper_rouge
from fedsim.local import LocalTraining
from fedsim.messages import Broadcast, Knowledge, Observation, Update
from fedsim.rng import global_stream, stream
from fedsim.training import Examples, Training, TrainingSettings


def update_of(
    who: Victim,
    examples: Examples,
    *,
    seed: int,
    dropout: bool = False,
    defense: Defense | None = None,
) -> Update:
    """Return the gradient that a client sends: of a defense, what is on the wire."""
    settings = TrainingSettings(dropout=dropout)
    local: Training = LocalTraining(who.adapter, settings)
    if defense is not None:
        noise, size = stream(seed, "defense"), len(examples)
        here = Here(round=1, held=size, expected=size, training=settings, memory=Memory(),
                    generator=noise)  # fmt: skip
        defense = defense.begin(here)
        local = defense.wrap(local)
    with global_stream(seed, "dropout"):
        tensors, _ = local(who.parameters, examples, stream(seed, "client"))
    if defense is not None:
        sent = dict(defense.protect(tensors, stream(seed, "protect")))
        defense.audit(tensors, sent)
        tensors = sent
    return Update(tensors=tensors, kind="gradient", num_examples=len(examples))


def observation(
    who: Victim, examples: Examples, update: Update, *, dropout: bool = False, **knowledge: Any
) -> Observation:
    """Return what an attack sees with the papers' knowledge: labels, lengths, batch size."""
    config = TrainingSettings(dropout=dropout).as_config()
    granted = Knowledge(
        labels=tuple(label for label in examples.labels if label is not None),
        lengths=tuple(map(len, examples.sequences)),
        batch_size=len(examples),
        **knowledge,
    )
    broadcast = Broadcast(round=1, parameters=who.parameters, config=config)
    return Observation(model=who.adapter, broadcast=broadcast, update=update, knowledge=granted)


def measured(
    who: Victim,
    sentences: Pool,
    attack: Attack,
    index: int,
    *,
    size: int = 1,
    dropout: bool = False,
    defense: Defense | None = None,
) -> Cell:
    """Attack batch ``index`` of the sentences, and score others in its place: the control.

    The attack is told of the defense.
    """
    examples, others = sentences.draw(size, 1, index), sentences.draw(size, 2, index)
    told: dict[str, Any] = {}
    if defense is not None:
        told["defense"] = in_force([defense])
    update = update_of(who, examples, seed=index, dropout=dropout, defense=defense)
    seen = observation(who, examples, update, dropout=dropout, **told)
    found = attacked(who, seen, examples, attack, index)
    return {**found, "unrelated": unrelated(who, examples, others)}


def attacked(who: Victim, seen: Observation, examples: Examples, attack: Attack, seed: int) -> Cell:
    """Attack one update; return its scores, its cost and what it found."""
    started, processor = time.perf_counter(), time.process_time()
    try:
        guess = attack.reconstruct(seen, stream(seed, "attack"))
        sequences, notes = guess.sequences, dict(guess.diagnostics)
    except UnsupportedObservation as reason:
        sequences, notes = (), {"error": str(reason)}  # type: ignore[dict-item]
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    samples, _, _ = score(who.adapter, examples.sequences, sequences)
    decode = who.adapter.tokenizer.decode
    truth = [str(decode(list(one))) for one in examples.sequences]
    found = [str(decode(list(one))) for one in sequences]
    names = ("rouge1", "rouge2", "rougeL", "exact_match", "bag_f1")
    return {
        "samples": [{n: round(one[n], 4) for n in names if n in one} for one in samples],
        "paper": {name: round(one, 3) for name, one in paper_rouge(truth, found).items()},
        "seconds": round(seconds, 1),
        "cpu_seconds": round(processor, 1),
        "notes": notes,
    }


def unrelated(who: Victim, examples: Examples, others: Examples) -> Cell:
    """Return the control: other sentences of the same data set as the guess, no gradient."""
    samples, _, _ = score(who.adapter, examples.sequences, others.sequences)
    return {name: fmean(chain(*having(name, [samples]))) for name in ("rouge1", "rouge2")}


def summary(rows: Sequence[Cell]) -> Cell:
    """Return a cell's means and 95 % intervals, clustered by update."""
    found: Cell = {"updates": len(rows)}
    for name in ("rouge1", "rouge2", "rougeL", "exact_match", "bag_f1"):
        groups = having(name, [row["samples"] for row in rows])
        found[name] = vars(
            cluster_interval(groups, seed=1, fraction=name in ("exact_match", "bag_f1"))
        )
    for name in ("rouge1_paper", "rouge2_paper"):
        found[name] = round(fmean(row["paper"][name] for row in rows), 2)
    found["chance_rouge1"] = round(fmean(row["unrelated"]["rouge1"] for row in rows), 2)
    found["chance_rouge2"] = round(fmean(row["unrelated"]["rouge2"] for row in rows), 2)
    found["cpu_seconds"] = round(fmean(row["cpu_seconds"] for row in rows), 1)
    return found


@dataclass
class Cells:
    """A result file of cells; each row is written when it is there."""

    path: Path
    head: Cell
    only: str = ""  # cells whose names hold one of these, separated by ";"
    limit: int = 10**6  # rows to add in this run
    each: int = 10**6  # rows of a cell
    cells: dict[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.cells = json.loads(self.path.read_text(encoding="utf-8"))["cells"]

    def fill(self, name: str, settings: Cell, count: int, measure: Callable[[int], Cell]) -> None:
        """Measure the rows of a cell that are not there yet."""
        if not any(one in name for one in self.only.split(";")):
            return
        cell = self.cells.setdefault(name, {"settings": settings, "rows": []})
        if cell["settings"] != settings:
            cell.update(settings=settings, rows=[])
        while len(cell["rows"]) < min(count, self.each) and self.limit > 0:
            row = measure(len(cell["rows"]))
            cell["rows"].append(row)
            self.limit -= 1
            if all("samples" in one for one in cell["rows"]):
                cell["summary"] = summary(cell["rows"])
            write_json(self.path, {**self.head, "cells": self.cells})
            print(name, len(cell["rows"]), json.dumps(row)[:300], flush=True)

    def write(self, **more: Any) -> None:
        """Write the file with ``more`` in its head."""
        write_json(self.path, {**self.head, **more, "cells": self.cells})


def begin(name: str, claim: str) -> tuple[argparse.Namespace, Cells]:
    """Return the options that all have, and the result file called ``name``."""
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--only", default="", help="cells whose names hold this; or this;that")
    parser.add_argument("--limit", type=int, default=10**6, help="updates to attack in this run")
    parser.add_argument("--each", type=int, default=10**6, help="updates of a cell, at most")
    parser.add_argument("--layers", type=int, default=6, help="of MiniLM's 6, the first so many")
    parser.add_argument("--steps", type=int, default=2000, help="of LAMP, where it has no own plan")
    parser.add_argument("--prior", default="", help="a language model, see fedsim train-prior")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    options = parser.parse_args()
    need_data()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    head = {
        "claim": claim,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with other work, no GPU",
        "threads": 1,
        "dtype": "float32; large products of a cosine's descent, and its ranking, in bfloat16",
        "seed": 1,
        "weights": "all-MiniLM-L6-v2, trained; the classifier's head is random",
    }
    chosen = {name: getattr(options, name) for name in ("only", "limit", "each")}
    return options, Cells(path=options.out, head=head, **chosen)


def prior_note(options: argparse.Namespace) -> Cell:
    """Return what a record says of the prior: how it was made, or that there is none."""
    made = Path(options.prior) / "prior.json" if options.prior else None
    if made is None or not made.exists():
        return {"prior": None}
    told = json.loads(made.read_text(encoding="utf-8"))
    return {"prior": {k: v for k, v in told.items() if k != "model"}}
