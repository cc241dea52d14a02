"""Claim: DAGER reads real batches exactly off one gradient of GPT-2 at its real size.

Measures, for batches of 1 to 16 sentences of CoLA, SST-2 and Rotten Tomatoes: sentences recovered
exactly, failures one by one, ROUGE beside the paper's (which are of trained weights; here they are
random), seconds and memory of each attack, its diagnostics. Batches with D - 20 distinct prefixes
or more are attacked too, and reported apart, under ``beyond``. Writes results/dager_exact.json.

    python benchmarks/run.py dager/exact [--dataset cola ...] [--batch 1 ...] [--batches 20]
"""

import argparse

from common.attempts import run_batches, share, split, summary
from common.results import Cell, Results, arguments, markdown, start
from common.victims import DATASETS, Pool, Victim, gpt2, gradient, pool

SIZES = (1, 2, 4, 8, 16)
# DAGER, arXiv:2405.15586v2, tables 2 and 3, GPT-2: ROUGE-1, ROUGE-2; None: not legible
PAPER: dict[str, dict[int, tuple[float, float | None]]] = {
    "cola": {1: (100, 100), 2: (100, 100), 4: (100, 100), 8: (100, None), 16: (100, 100)},
    "sst2": {1: (100, 86.0), 2: (100, 89.5), 4: (100, 92.8), 8: (100, None), 16: (100, 94.6)},
    "rotten_tomatoes": {
        1: (100, 100), 2: (100, 100), 4: (99.3, 99.3), 8: (100, None), 16: (100, 99.9),
    },
}  # fmt: skip


def measure(who: Victim, sentences: Pool, size: int, options: argparse.Namespace) -> Cell:
    """Attack the gradients of ``options.batches`` batches of ``size`` sentences."""
    batches = (sentences.draw(size, options.seed, index) for index in range(options.batches))
    attempts = run_batches(
        who,
        batches,
        lambda _, examples: gradient(who, examples),
        seed=options.seed,
        label=f"{sentences.name} B={size}",
    )
    within, beyond = split(attempts, who.adapter.width)
    paper = dict(zip(("rouge1", "rouge2"), PAPER[sentences.name][size], strict=True))
    return {
        **summary(within, who.adapter.width),
        "paper": paper,
        "beyond": summary(beyond, who.adapter.width),
    }


def table(results: Results) -> str:
    """Return the cells as a table."""
    rows = []
    for name, cell in results.cells.items():
        if "metrics" not in cell:
            rows.append([name, "all batches are beyond", *[""] * 6])
            continue
        paper = " / ".join("?" if value is None else str(value) for value in cell["paper"].values())
        rouge = " / ".join(
            f"{cell['metrics'][metric]['mean']:.1f}" for metric in ("rouge1", "rouge2")
        )
        prefixes, seconds = cell["distinct_prefixes"], cell["seconds"]
        rows.append(
            [
                name,
                f"{cell['exact']}/{cell['sentences']} ({share(cell):.3f})",
                rouge,
                paper,
                f"{prefixes['median']:g} / {prefixes['max']} of {cell['d']}",
                f"{seconds['median']:.2f} / {seconds['max']:.2f}",
                cell["peak_gb_beyond_model"],
                cell["beyond"].get("batches", 0),
            ]
        )
    columns = ["cell", "exact", "R-1 / R-2", "paper's", "prefixes (median / max)"]
    return markdown([*columns, "seconds (median / max)", "GB", "beyond"], rows)


def main() -> None:
    """Measure every cell asked for; write after each."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--dataset", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--batch", nargs="+", type=int, choices=SIZES, default=list(SIZES))
    parser.add_argument("--batches", type=int, default=20, help="per cell")
    options = parser.parse_args()
    claim = "DAGER reads real batches exactly off one gradient of GPT-2 at its real size"
    results = start(options, "dager_exact", claim, model="GPT-2 at real size, random weights")
    who = gpt2()
    pools = [pool(who.adapter, dataset) for dataset in options.dataset]
    for size in options.batch:
        for sentences in pools:
            settings = {"batches": options.batches, "seed": options.seed, "size": size}
            results.cell(
                f"{sentences.name} B={size}",
                settings,
                lambda sentences=sentences, size=size: measure(who, sentences, size, options),  # type: ignore[misc]
            )
    text = table(results)
    results.write(table=text)
    print(text)


if __name__ == "__main__":
    main()
