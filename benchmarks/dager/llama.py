"""Claim: DAGER reads rotary models exactly, trained or not, while the batch fits their width.

Measures on CoLA: a trained LLaMA of width 64 (stories260K), both losses, with sentences short
enough that a batch of B has fewer than D - 20 distinct prefixes; and a random LLaMA of width 1024
with 32,000 tokens at B = 1, 8, 32. Of a next-token loss attention does not carry the last token:
sentences count as exact without it, and those exact with it are counted beside. Writes
results/dager_llama.json.

    python benchmarks/run.py dager/llama [--batches 10]
"""

import argparse
import tempfile

from common.attempts import SPARE, run_batches, share, split, summary
from common.results import Cell, Results, arguments, markdown, start
from common.victims import Pool, Victim, gradient, pool, random_llama, stories

TRAINED = (1, 2, 4)  # at width 64 eight sentences hardly fit
RANDOM = (1, 8, 32)


def fitting(sentences: Pool, size: int, width: int) -> Pool:
    """Return the sentences of which any ``size`` have fewer than D - SPARE distinct prefixes."""
    longest = (width - SPARE - 1) // size
    return sentences.only(lambda tokens: len(tokens) <= longest)


def measure(who: Victim, sentences: Pool, size: int, options: argparse.Namespace) -> Cell:
    """Attack the gradients of ``options.batches`` batches of ``size`` sentences that fit."""
    some = fitting(sentences, size, who.adapter.width)
    batches = (some.draw(size, options.seed, index) for index in range(options.batches))
    attempts = run_batches(
        who, batches, lambda _, examples: gradient(who, examples), seed=options.seed
    )
    within, beyond = split(attempts, who.adapter.width)
    assert not beyond
    return {
        **summary(within, who.adapter.width),
        "longest_allowed": (who.adapter.width - SPARE - 1) // size,
        "share_of_sentences_that_fit": round(len(some) / len(sentences), 4),
    }


def family(
    name: str, who: Victim, sizes: tuple[int, ...], results: Results, options: argparse.Namespace
) -> None:
    """Measure one model at every batch size."""
    sentences = pool(who.adapter, "cola")
    for size in sizes:
        settings = {"batches": options.batches, "seed": options.seed}
        results.cell(
            f"{name}, cola B={size}",
            settings,
            lambda size=size: measure(who, sentences, size, options),  # type: ignore[misc]
        )


def table(results: Results) -> str:
    """Return the cells as a table."""
    rows = [
        [
            name,
            f"{cell['exact']}/{cell['sentences']} ({share(cell):.3f})",
            f"{cell['metrics']['exact_match']['mean']:.3f}",
            f"{cell['distinct_prefixes']['median']:g} / {cell['distinct_prefixes']['max']}",
            cell["d"],
            f"{cell['seconds']['median']:.2f} / {cell['seconds']['max']:.2f}",
            cell["surplus_guesses"],
        ]
        for name, cell in results.cells.items()
    ]
    columns = ["cell", "exact", "with last tokens", "prefixes (median / max)", "d"]
    return markdown([*columns, "seconds (median / max)", "wrong guesses"], rows)


def main() -> None:
    """Measure both models; write after each cell."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--batches", type=int, default=10, help="per cell")
    options = parser.parse_args()
    claim = "DAGER reads rotary models exactly, trained or not, while the batch fits their width"
    results = start(options, "dager_llama", claim)
    for task in ("classification", "causal-lm"):
        family(f"stories260K trained, {task}", stories(task=task), TRAINED, results, options)
    with tempfile.TemporaryDirectory() as folder:
        who = random_llama(folder)
    family("LLaMA d=1024 random, classification", who, RANDOM, results, options)
    text = table(results)
    results.write(table=text)
    print(text)


if __name__ == "__main__":
    main()
