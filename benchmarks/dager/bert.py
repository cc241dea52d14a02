"""Claim: one gradient of an encoder gives its batch away, lengths unknown, in minutes.

Measures on trained weights (all-MiniLM-L6-v2, 6 blocks, width 384) and on random ones of
BERT-base's size (12 blocks, width 768): one sentence of each length up to 128 tokens, cut from
WikiText-2, batches of CoLA, SST-2 and Rotten Tomatoes, and, of the trained ones, what clients send
of CoLA after local SGD in float32. Batches with D - 20 tokens or more are
attacked too, and reported apart, under ``beyond``. Beside them the paper's ROUGE-1 (BERT-base,
trained weights). Writes results/dager_bert.json.

    python benchmarks/run.py dager/bert [--model minilm base] [--batches 10]
"""

import argparse
from typing import Any

from common.attempts import SPARE, Attempt, run_batches, share, summary
from common.places import DATA, need_data
from common.results import Cell, Results, arguments, markdown, start
from common.victims import (
    DATASETS,
    Pool,
    Victim,
    bert_base,
    client_update,
    gradient,
    minilm,
    pool,
)

from clients.named import find_rows
from fedsim.messages import Update
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings

LENGTHS = (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 112, 120, 127, 128)
LOCAL: tuple[dict[str, Any], ...] = (
    {"learning_rate": 1e-2, "mini_batch_size": 4},
    {"learning_rate": 1e-3, "mini_batch_size": 4},
    {"learning_rate": 1e-2, "mini_batch_size": 2, "local_epochs": 3},
    {"learning_rate": 1e-2, "mini_batch_size": 2, "local_epochs": 3, "optimizer": "momentum"},
    {"learning_rate": 1e-2, "mini_batch_size": 1, "local_epochs": 3},
)
SIZES = {"minilm": (2, 4, 8), "base": (4,)}
LONG = 128  # tokens, special ones included
# DAGER, arXiv:2405.15586v2, table 2, BERT-base at B = 4: ROUGE-1
PAPER = {("cola", 4): 94.0, ("sst2", 4): 95.0, ("rotten_tomatoes", 4): 66.8}


def cut(who: Victim, texts: list[str], length: int, index: int) -> Examples:
    """Return a stretch of ``texts`` of ``length`` tokens, special ones included."""
    some = " ".join(texts[50 * index : 50 * (index + 1)])
    body = who.adapter.tokenizer(some, add_special_tokens=False)["input_ids"]
    around = len(who.adapter.prefix) + len(who.adapter.suffix)
    ids = (*who.adapter.prefix, *body[: length - around], *who.adapter.suffix)
    assert len(ids) == length
    return Examples(sequences=(ids,), labels=(0,))


def cell(attempts: list[Attempt], width: int) -> Cell:
    """Return the figures of a cell, those beyond the method apart."""
    within = [attempt for attempt in attempts if attempt.tokens < width - SPARE]
    beyond = [attempt for attempt in attempts if attempt.tokens >= width - SPARE]
    return {**summary(within, width), "beyond": summary(beyond, width)}


def measure(
    name: str, who: Victim, sizes: tuple[int, ...], results: Results, options: argparse.Namespace
) -> None:
    """Measure one model: every length at B = 1, then batches."""

    def run(label: str, batches: list[Examples]) -> Cell:
        attempts = run_batches(
            who, batches, lambda _, examples: gradient(who, examples), seed=1, label=label
        )
        return cell(attempts, who.adapter.width)

    seed = {"seed": options.seed}
    frame = find_rows("wikitext2", str(DATA / "datasets" / "wikitext2")).train
    texts = [text.strip() for text in frame["text"] if text.strip()]
    for index, length in enumerate(LENGTHS):
        batch = [cut(who, texts, length, index)]
        label = f"{name}, wikitext2 B=1 T={length}"
        results.cell(label, seed, lambda label=label, batch=batch: run(label, batch))  # type: ignore[misc]
    for data in DATASETS:
        sentences: Pool = pool(who.adapter, data).only(lambda tokens: len(tokens) <= LONG)
        for size in sizes:
            batch = [sentences.draw(size, options.seed, index) for index in range(options.batches)]
            label = f"{name}, {data} B={size}"
            settings = {"batches": options.batches, **seed}
            results.cell(label, settings, lambda label=label, batch=batch: run(label, batch))  # type: ignore[misc]


def measure_deltas(who: Victim, results: Results, options: argparse.Namespace) -> None:
    """Measure FedAvg on the trained model: CoLA, 4 sentences a client."""
    sentences = pool(who.adapter, "cola").only(lambda tokens: len(tokens) <= LONG)
    for chosen in LOCAL:
        training = TrainingSettings(algorithm="fedavg", **chosen)
        words = ", ".join(f"{name} {value}" for name, value in chosen.items())
        label = f"minilm, cola B=4 delta: {words}"

        def run(training: TrainingSettings = training, label: str = label) -> Cell:
            batches = [sentences.draw(4, options.seed, index) for index in range(options.batches)]

            def make(index: int, examples: Examples) -> Update:
                return client_update(
                    who, examples, training, stream(options.seed, "training", index)
                )

            return cell(run_batches(who, batches, make, seed=1, label=label), who.adapter.width)

        results.cell(label, {"batches": options.batches, "seed": options.seed}, run)


def table(results: Results) -> str:
    """Return the cells as a table."""
    rows = []
    for name, cell in results.cells.items():
        if not cell.get("metrics"):
            continue
        data, _, size = name.split(", ")[1].partition(" B=")
        paper = PAPER.get((data, int(size.split()[0]))) if "base" in name else None
        rows.append(
            [
                name,
                f"{cell['exact']}/{cell['sentences']} ({share(cell):.3f})",
                f"{share(cell, 'rouge1'):.1f}",
                "" if paper is None else paper,
                f"{cell['n']['median']:g} / {cell['n']['max']}",
                f"{cell['seconds']['median']:.1f} / {cell['seconds']['max']:.1f}",
                cell["beyond"].get("sentences", 0),
            ]
        )
    columns = ["cell", "exact", "R-1", "paper R-1", "tokens (median / max)"]
    return markdown([*columns, "seconds (median / max)", "sentences beyond"], rows)


def main() -> None:
    """Measure both models; write after each cell."""
    need_data()
    parser = arguments(__doc__ or "")
    parser.add_argument("--model", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batches", type=int, default=10, help="per cell")
    options = parser.parse_args()
    claim = "one gradient of an encoder gives its batch away, lengths unknown"
    results = start(options, "dager_bert", claim)
    for kind in options.model:
        who = minilm() if kind == "minilm" else bert_base()
        measure(kind, who, SIZES[kind], results, options)
        if kind == "minilm":
            measure_deltas(who, results, options)
    text = table(results)
    results.write(table=text)
    print(text)


if __name__ == "__main__":
    main()
