"""Claim: FILM writes texts nearer to the client's than unrelated sentences are; by how much.

    python benchmarks/run.py counts/film --smollm2 DIR [--batches 20] [--sizes 1 16]

One FedSGD gradient of SmolLM2-135M (trained, never on these texts; tied head), sentences of
WikiText-2's test of 8 to 14 words. The bag is read off the gradient. Beside FILM, the same scores
of as many unrelated sentences of the same text (no gradient). Best of the batch is the paper's
figure (chosen with the truth); one to one is the project's. Intervals are of the paired difference,
by batch. Writes results/counts_film.json after each batch.
"""

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from common.places import DATA
from common.results import Results, arguments, code, start
from common.victims import Victim, gradient, observation, victim

from attacks import Film
from attacks.reads import moved_rows
from fedsim.lab.scoring.intervals import paired_interval
from fedsim.lab.scoring.metrics import Pair, match, sample_metrics
from fedsim.models import ModelSpec
from fedsim.rng import derive, stream
from fedsim.training import Examples
from fedsim.types import Tokens

START = "attacks.film.attack"  # whose code a cell's stamp is of
WORDS = range(8, 15)
METRICS = ("rouge1", "rouge2", "rougeL", "bag_f1", "exact_match")


def sentences(who: Victim) -> list[Tokens]:
    """Return sentences of WikiText-2's test, each once: whole ones, without unknown words."""
    path = DATA / "datasets" / "wikitext2" / "test.txt"
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    parts = [f"{part.strip()} ." for line in lines for part in line.split(" . ")[:-1]]
    kept = [
        part for part in dict.fromkeys(parts)
        if len(part.split()) in WORDS and "<unk>" not in part and part[0].isupper()
    ]  # fmt: skip
    return [tuple(row) for row in who.adapter.tokenizer(kept)["input_ids"]]


def scored(who: Victim, truths: Sequence[Tokens], guesses: Sequence[Tokens]) -> dict[str, float]:
    """Return each metric one to one over the batch, and of the best text of it."""

    def pair(truth: Tokens, guess: Tokens) -> dict[str, float]:
        decode = who.adapter.tokenizer.decode
        texts = [str(decode(list(tokens), skip_special_tokens=True)) for tokens in (truth, guess)]
        made = Pair(truth=truth, guess=guess, truth_text=texts[0], guess_text=texts[1])
        return sample_metrics(made, but_last=False)

    chosen = match(truths, guesses)
    each = [
        pair(t, () if at is None else guesses[at]) for t, at in zip(truths, chosen, strict=True)
    ]
    every = [pair(truth, guess) for truth in truths for guess in guesses]
    told = {name: fmean(one[name] for one in each) for name in METRICS}
    best = {f"best_{name}": max((one[name] for one in every), default=0.0) for name in METRICS}
    return told | best


def measure(who: Victim, size: int, options: argparse.Namespace, results: Results) -> None:
    """Attack one batch after the other; write after each."""
    name = f"SmolLM2-135M, B = {size}"
    attack = Film(passes=options.passes, tries=options.tries, beams=options.beams)
    settings = {"seed": options.seed, "batches": options.batches, "code": code(START),
                "attack": repr(attack)}  # fmt: skip
    if results.known(name, settings) is not None:
        return
    pool = sentences(who)
    random.Random(derive(options.seed, "sentences")).shuffle(pool)
    rows: list[tuple[dict[str, float], dict[str, float]]] = []
    bags: list[list[int]] = []
    for index in range(options.batches):
        batch = tuple(pool[index * size : (index + 1) * size])
        shown = observation(who, gradient(who, Examples(sequences=batch, labels=(None,) * size)))
        there = {token for text in batch for token in text}
        found = set(moved_rows(shown).tokens)
        guess = attack.reconstruct(shown, stream(options.seed, "attack", index))
        chance = random.Random(derive(options.seed, "unrelated", index))
        others = chance.sample(pool[options.batches * size :], size)
        rows.append((scored(who, batch, guess.sequences), scored(who, batch, others)))
        bags.append([len(there), len(there & found), len(found - there)])
        cell: dict[str, object] = {
            "of": len(rows),
            "size": size,
            "seconds": round(time.process_time(), 1),
        }
        cell |= {"types": [sum(part) for part in zip(*bags, strict=True)]}
        for key in rows[0][0]:
            most = 100.0 if "rouge" in key else 1.0
            gaps = [[film[key] - none[key]] for film, none in rows]
            gap = paired_interval(gaps, seed=options.seed, most=most)
            cell[key] = [round(fmean(film[key] for film, _ in rows), 3),
                         round(fmean(none[key] for _, none in rows), 3),
                         *(round(value, 3) for value in (gap.mean, gap.low, gap.high))]  # fmt: skip
        results.add(name, settings if len(rows) == options.batches else {"of": len(rows)}, cell)
        decode = who.adapter.tokenizer.decode
        print(size, index, {k: cell[k] for k in ("rouge1", "rouge2", "best_rouge1")}, flush=True)
        print("  true:", decode(list(batch[0])), "\n  film:",
              [decode(list(text)) for text in guess.sequences[:2]], flush=True)  # fmt: skip


def main() -> None:
    """Measure the sizes."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--smollm2", type=Path, required=False, help="the model's directory")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 16])
    for name in ("passes", "tries", "beams"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Film(), name))
    options = parser.parse_args()
    if options.smollm2 is None:
        raise SystemExit("--smollm2: wanted the model's directory (shared/data/models/smollm2.py)")
    results = start(options, "counts_film", "FILM beside unrelated sentences")
    who = victim(ModelSpec(name=str(options.smollm2), task="causal-lm"))
    for size in options.sizes:
        measure(who, size, options, results)


if __name__ == "__main__":
    main()
