"""What do the numbers read that were chosen on data sets which are evaluated, too?

Those of attacks/dager/thresholds.py that are marked (*) were picked while looking at batches of
SST-2, CoLA and the clinic under casts (tiny GPT-2, random), one of them on FedAvg deltas of Rotten
Tomatoes (GPT-2 at its real size, random). Here the same runs as in the defenses' table, four
clients of four sentences in one round of FedSGD, are made of texts that were never looked at:
sentences of 5 to 14 words of WikiText-2, of the ECHR's judgments and of Alpaca, labels 0 and 1 in
turn; three seeds each. Beside them those three data sets once more, with three seeds that are not
the table's. Then FedAvg deltas as in the middle of the paper's grid, and MiniLM (trained).
Writes results/dager_unseen.json.

    python benchmarks/run.py dager/unseen [--part casts deltas minilm]
"""

import argparse
import functools
import json
import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from common.attempts import run_batches, share, summary
from common.corpora import some
from common.places import DATA
from common.results import Cell, Results, arguments, markdown, start
from common.runs import measure
from common.victims import MINILM, client_update, gpt2

from clients.named import find_rows
from fedsim.files import write_lines
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings

UNSEEN = ("wikitext2", "echr", "alpaca")
LOOKED_AT = ("sst2", "cola", "clinic")
CASTS = {
    "none": "none",
    "float16": {"name": "quantize", "dtype": "float16"},
    "bfloat16": {"name": "quantize", "dtype": "bfloat16"},
    "int8": {"name": "quantize", "dtype": "int8"},
    "int8, stochastic": {"name": "quantize", "dtype": "int8", "rounding": "stochastic"},
}
SEEDS = {**dict.fromkeys(UNSEEN, (1, 2, 3)), **dict.fromkeys(LOOKED_AT, (2, 3, 4))}
FOUR = [
    "federation.clients=4", "federation.clients_per_round=4", "federation.rounds=1",
    "training.algorithm=fedsgd", "training.batch_size=4", "data.max_length=24", "data.evaluate=0",
    'attack=[{name="dager", max_searches=20}]',
]  # fmt: skip
THREE = ["federation.clients=3", "federation.clients_per_round=3", "training.batch_size=2"]
WORDS = range(5, 15)  # of a sentence
ROWS = 2000  # sentences of a data set, evenly spread
DELTA = TrainingSettings(
    algorithm="fedavg", learning_rate=1e-4, local_epochs=10, mini_batch_size=4
)  # the paper's middle
SIZE = 16


def texts(name: str) -> list[str]:
    """Return the texts of an unseen data set, as they stand there."""
    folder = DATA / "datasets" / name
    if name == "wikitext2":
        return [str(text).strip() for text in find_rows(name, str(folder)).train["text"]]
    if name == "echr":
        lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.open()]
        return [str(json.loads(line)["prompt"]) for line in lines]
    rows = json.loads((folder / "alpaca_5000.json").read_text(encoding="utf-8"))
    return [str(row[key]) for row in rows for key in ("instruction", "output")]


@functools.cache
def sentences(name: str) -> tuple[str, ...]:
    """Return different sentences of a data set, evenly spread."""
    parts = (part.strip() for text in texts(name) for part in re.split(r"(?<=[.?!])\s+|\n", text))
    different = tuple(dict.fromkeys(part for part in parts if len(part.split()) in WORDS))
    return different[:: max(1, len(different) // ROWS)]


@functools.cache
def data(name: str) -> list[str]:
    """Return the overrides that choose a data set."""
    if name == "clinic":
        return ["data.name=builtin:clinic"]
    if name in LOOKED_AT:
        return some(name)
    path = Path(tempfile.mkdtemp()) / f"{name}.jsonl"
    write_lines(
        path, ({"text": text, "label": row % 2} for row, text in enumerate(sentences(name)))
    )
    return [f"data.name={path}"]


def read(defense: object, words: Sequence[str], seeds: Sequence[int]) -> Cell:
    """Return what DAGER reads under ``defense``, all ``seeds`` together."""
    runs = [measure(defense, [*words, f"seed={seed}"]) for seed in seeds]
    exact = [round(run["leakage"]["exact_match"]["mean"] * run["samples"]) for run in runs]
    return {
        "exact": sum(exact),
        "exact_by_seed": exact,
        "sentences": sum(run["samples"] for run in runs),
        "overlap": round(fmean(run["leakage"]["bag_f1"]["mean"] for run in runs), 3),
        "verdicts": [run["verdict"]["verdict"] for run in runs],
        "seconds": round(sum(run["seconds"] for run in runs), 1),
    }


def casts(results: Results) -> None:
    """Measure casts of tiny GPT-2's gradients."""
    for name in (*UNSEEN, *LOOKED_AT):
        for cast, defense in CASTS.items():
            if name in LOOKED_AT and cast in ("none", "float16"):  # all is read there
                continue
            words = [*FOUR, "model.name=builtin:gpt2-tiny", *data(name)]
            settings = {"seeds": list(SEEDS[name])}
            results.cell(
                f"gpt2-tiny random, {name} | {cast}",
                settings,
                lambda d=defense, w=words, n=name: read(d, w, SEEDS[n]),  # type: ignore[misc]
            )


def deltas(results: Results, seed: int) -> None:
    """Measure FedAvg deltas of GPT-2 at its real size, 16 sentences a client."""
    who = gpt2()
    for name in UNSEEN:
        encoded = who.adapter.tokenizer(list(sentences(name)))["input_ids"]
        different = list(dict.fromkeys(tuple(ids) for ids in encoded))
        rows = torch.randperm(len(different), generator=stream(seed, "batch", name, SIZE))[:SIZE]
        labels = tuple(row % 2 for row in range(SIZE))
        sequences = tuple(different[row] for row in rows.tolist())
        examples = Examples(sequences=sequences, labels=labels)

        def run(examples: Examples = examples, name: str = name) -> Cell:
            update = client_update(who, examples, DELTA, stream(seed, "training"))
            attempts = run_batches(who, [examples], lambda *_: update, seed=seed, label=name)
            cell = summary(attempts, who.adapter.width)
            return {**cell, "overlap": round(share(cell, "token_accuracy"), 3)}

        results.cell(f"gpt2 124M random, {name} | FedAvg E=10 lr=1e-4", {"seed": seed}, run)


def minilm(results: Results) -> None:
    """Measure casts of MiniLM's gradients, two sentences a client."""
    for name in UNSEEN:
        for cast in ("none", "bfloat16", "int8"):
            words = [*FOUR, *THREE, f"model.name={MINILM}", *data(name)]
            results.cell(
                f"MiniLM trained, {name} | {cast}",
                {"seeds": [1]},
                lambda c=cast, w=words: read(CASTS[c], w, (1,)),  # type: ignore[misc]
            )


def table(results: Results) -> str:
    """Return the cells as a table."""
    rows = [
        [name, f"{cell['exact']}/{cell['sentences']}", f"{cell['overlap']:.2f}"]
        for name, cell in results.cells.items()
    ]
    return markdown(["cell", "exact", "overlap"], rows)


def main() -> None:
    """Measure the parts asked for; write after each cell."""
    parser = arguments(__doc__ or "")
    parts = ("casts", "deltas", "minilm")
    parser.add_argument("--part", nargs="+", choices=parts, default=list(parts))
    parser.set_defaults(threads=1)
    options: argparse.Namespace = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    claim = "what DAGER's numbers read of texts that they were not chosen on"
    results = start(options, "dager_unseen", claim)
    if "casts" in options.part:
        casts(results)
    if "deltas" in options.part:
        deltas(results, options.seed)
    if "minilm" in options.part:
        minilm(results)
    text = table(results)
    results.write(table=text)
    print(text)


if __name__ == "__main__":
    main()
