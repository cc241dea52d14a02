"""Claim: rows of the word embeddings name the types of a batch, of AdamW's steps also their step.

    python benchmarks/run.py counts/bag [--clients 20] [--only "minilm ..." ...] [--smollm2 DIR]

Each cell is a setting, with clients of texts of their own. Untied embeddings under AdamW: types
found and false, those of one step alone, dated and wrong, and of types that occur once the
position. Tied heads as they are. The thresholds were chosen on Rotten Tomatoes and on WikiText-2's
valid; the cells are of SST-2 and of WikiText-2's test. Writes results/counts_bag.json after each.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common.places import DATA
from common.results import Cell, Results, arguments, code, start
from common.victims import Pool, Victim, client_update, pool, victim

from attacks.reads import Dated, moved_rows, read_clock
from fedsim.messages import Broadcast, Observation
from fedsim.models import ModelAdapter, ModelSpec
from fedsim.rng import global_stream, stream
from fedsim.training import Examples, TrainingSettings

MINILM = {"name": str(DATA / "models" / "all-MiniLM-L6-v2-fp16"), "task": "classification"}
STORIES = {"name": str(DATA / "models" / "stories260K-hf"), "task": "causal-lm"}
TINY = {"name": "builtin:gpt2-tiny", "task": "causal-lm"}
ADAM = {"algorithm": "fedavg", "optimizer": "adamw", "learning_rate": 5e-5, "dropout": True}
START = "attacks.bag"  # whose code a cell's stamp is of


@dataclass(frozen=True)
class Setting:
    """A model, how its clients train, on how many texts."""

    model: dict[str, Any]
    training: dict[str, Any]
    examples: int
    length: int = 64  # tokens that a text is cut to


CELLS: dict[str, Setting] = {
    "minilm, AdamW 4 x 5": Setting(MINILM, {**ADAM, "mini_batch_size": 4}, 20),
    "minilm, AdamW 1 x 5, float16 wire": Setting(
        MINILM, {**ADAM, "mini_batch_size": 1, "wire_dtype": "float16"}, 5
    ),
    "minilm, AdamW 16 x 2": Setting(MINILM, {**ADAM, "mini_batch_size": 16}, 32),
    "minilm, AdamW 8 x 7": Setting(MINILM, {**ADAM, "mini_batch_size": 8}, 56),
    "minilm, AdamW 4 x 5, linear schedule, clip 1": Setting(
        MINILM, {**ADAM, "mini_batch_size": 4, "lr_scheduler": "linear", "max_grad_norm": 1.0}, 20
    ),
    "minilm, SGD 4 x 5": Setting(
        MINILM, {"algorithm": "fedavg", "mini_batch_size": 4, "learning_rate": 1e-2}, 20
    ),
    "minilm, FedSGD 20": Setting(MINILM, {}, 20),
    "gpt2-tiny (random, tied), FedSGD 8": Setting(TINY, {}, 8, length=32),
    "gpt2-tiny (random, tied), AdamW 4 x 2": Setting(
        TINY, {**ADAM, "mini_batch_size": 4}, 8, length=32
    ),
    "stories260K (tied), FedSGD 1": Setting(STORIES, {}, 1, length=32),
    "stories260K (tied), FedSGD 4": Setting(STORIES, {}, 4, length=32),
    "stories260K (tied), AdamW 4 x 1": Setting(
        STORIES, {**ADAM, "learning_rate": 1e-4, "mini_batch_size": 4}, 4, length=64
    ),
}


def smollm2(folder: Path, examples: int) -> Setting:
    """Return a trained language model with a tied head."""
    return Setting({"name": str(folder), "task": "causal-lm"}, {}, examples, length=32)


def wikitext(adapter: ModelAdapter, least: int) -> Pool:
    """Return the lines of WikiText-2's test of ``least`` tokens or more, in its order."""
    path = DATA / "datasets" / "wikitext2" / "test.txt"
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    rows = adapter.tokenizer([line for line in lines if len(line) > 40], verbose=False)["input_ids"]
    texts = dict.fromkeys(tuple(row) for row in rows if len(row) >= least)
    return Pool("wikitext2", Examples(sequences=tuple(texts), labels=(None,) * len(texts)))


def texts_of(who: Victim, setting: Setting) -> Pool:
    """Return the texts of a setting, cut to its length."""
    adapter = who.adapter
    if adapter.spec.task == "classification":
        drawn = pool(adapter, "sst2").only(lambda tokens: len(tokens) >= 8)
    else:
        drawn = wikitext(adapter, setting.length)
    cut = [tokens[: setting.length] for tokens in drawn.examples.sequences]
    return Pool(drawn.name, Examples(sequences=tuple(cut), labels=drawn.examples.labels))


def seen(who: Victim, training: TrainingSettings, examples: Examples, seed: int) -> Observation:
    """Return what the server sees of a client."""
    with global_stream(seed, "client"):
        update = client_update(who, examples, training, stream(seed, "client"))
    return Observation(
        model=who.adapter,
        broadcast=Broadcast(round=1, parameters=who.parameters, config=training.as_config()),
        update=update,
    )


def steps_of(training: TrainingSettings, examples: Examples, seed: int) -> list[int]:
    """Return the local step of each text, from 1: the client's own first shuffle."""
    order = torch.randperm(len(examples), generator=stream(seed, "client")).tolist()
    step = [0] * len(order)
    for place, row in enumerate(order):
        step[row] = place // training.mini_batch_size + 1
    return step


def measured(who: Victim, setting: Setting, examples: Examples, seed: int) -> Counter[str]:
    """Return the counts of one client."""
    training = TrainingSettings(**setting.training)
    observation = seen(who, training, examples, seed)
    moved = moved_rows(observation)
    found, there = set(moved.tokens), {token for text in examples.sequences for token in text}
    causal = who.adapter.spec.task == "causal-lm"
    read = {t for text in examples.sequences for t in (text[:-1] if causal else text)}
    told = Counter(
        tokens=sum(map(len, examples.sequences)), types=len(there), found=len(found & there),
        false=len(found - there), read_types=len(read), read_found=len(found & read),
    )  # fmt: skip
    return told + dated(read_clock(observation, moved), training, examples, seed)


def dated(clock: Dated, training: TrainingSettings, examples: Examples, seed: int) -> Counter[str]:
    """Return how many types of one step alone there are, dated, wrongly, and placed."""
    told = Counter[str]()
    if not clock.steps:
        return told
    step = steps_of(training, examples, seed)
    in_steps: dict[int, set[int]] = {}
    places: dict[int, list[int]] = {}
    for row, text in enumerate(examples.sequences):
        for place, token in enumerate(text):
            in_steps.setdefault(token, set()).add(step[row])
            places.setdefault(token, []).append(place)
    single = {token for token, steps in in_steps.items() if len(steps) == 1}
    told["of_one_step"] = len(single)
    told["dated"] = len(clock.step)
    told["dated_wrong"] = sum(in_steps.get(t, set()) != {s} for t, s in clock.step.items())
    once = [token for token in clock.place if len(places.get(token, ())) == 1]
    told["once"] = len(once)
    told["placed"] = sum(clock.place[token] == places[token][0] for token in once)
    return told


def figures(clients: Sequence[Counter[str]], width: int) -> Cell:
    """Return the sums of a cell, and how many clients were exact."""
    whole = sum(clients, Counter[str]())
    return {
        "of": len(clients),
        "d": width,
        "most_tokens": max(one["tokens"] for one in clients),
        "exact_clients": sum(one["found"] == one["types"] and not one["false"] for one in clients),
        **{name: whole[name] for name in (
            "tokens", "types", "found", "false", "read_types", "read_found", "of_one_step",
            "dated", "dated_wrong", "once", "placed",
        )},
    }  # fmt: skip


def measure(name: str, setting: Setting, options: argparse.Namespace, results: Results) -> None:
    """Attack one client after the other."""
    settings = {"seed": options.seed, "clients": options.clients, "code": code(START)}
    if results.known(name, settings) is not None:
        return
    who = victim(ModelSpec(**setting.model))
    texts = texts_of(who, setting)
    clients = [
        measured(who, setting, texts.draw(setting.examples, options.seed, index), index)
        for index in range(options.clients)
    ]
    cell = figures(clients, who.adapter.width)
    results.add(name, settings, cell)
    print(name, cell, flush=True)


def main() -> None:
    """Measure the settings."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument(
        "--smollm2", type=Path, help="its directory (shared/data/models/smollm2.py)"
    )
    options = parser.parse_args()
    results = start(options, "counts_bag", "rows of the word embeddings name the types of a batch")
    cells = dict(CELLS)
    if options.smollm2:
        for size in (1, 16):
            cells[f"SmolLM2-135M (tied), FedSGD {size}"] = smollm2(options.smollm2, size)
    for name, setting in cells.items():
        if not options.only or name in options.only:
            measure(name, setting, options, results)


if __name__ == "__main__":
    main()
