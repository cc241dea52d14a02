"""Claim: what DAGER says that it is sure of is so.

Thousands of small random batches of each family on its tiny preset (of encoders that have no family
file on a tiny model, with other orders of a text, too): texts that repeat, begin
others, have both labels or one token; tokens that are embedded or predicted alike; heads scaled up
to 1,000; weights that were trained on the very texts; next-token and masked-token losses;
gradients, and some deltas, of steps so small that all are at one set of weights, too. A
reading is sure where it is ``counted`` or not ``best_effort``, and wrong where its sequences are
not the client's, each as often as it was there. Some updates cannot tell ("untold"): an example
fits its label so well that it adds less than rounding, or all texts of a next-token batch repeat,
which is the gradient of fewer beside texts of one token, or tokens were masked or have twins; all
others are "told". With ``--against`` another checkout's attack reads the first ``--old`` of them,
too, and it is counted how many of those that it had right and was sure of are still sure. Writes
results/dager_sure.json, a hundred batches at a time.

    python benchmarks/run.py dager/sure --against ../parent [--family gpt2 ...] [--batches 3000]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import transformers
from common.results import Cell, Results, arguments, markdown, start
from dager.hard import BY_GRAPH, Scenes

from attacks import Dager
from fedsim.rng import stream

FAMILIES = ("gpt2", "llama", "bert", *BY_GRAPH)
PART = 100  # batches of a cell
LONGEST = 120  # seconds an attack may take on a batch: the parent's search explodes at times
UNREAD: Cell = {"sure": False, "right": False}  # not asked, or not in time
TALLIES = ("batches", "sure", "sure_and_wrong", "batches_of_old", "old_sure_and_right",
           "of_these_still_sure", "old_sure_and_wrong")  # fmt: skip


def outcomes(scenes: Scenes, numbers: Sequence[int]) -> Iterator[Cell]:
    """Yield what the attack that is imported says of each batch."""
    for index in numbers:
        batch = scenes.batch(index)
        signal.alarm(LONGEST)
        try:
            guess = Dager().reconstruct(batch.observation, stream(scenes.seed, "attack", index))
        except TimeoutError:
            yield {"index": index, "kinds": batch.kinds, **UNREAD}
            continue
        finally:
            signal.alarm(0)
        notes = guess.diagnostics
        yield {
            "index": index,
            "kinds": batch.kinds,
            "sure": bool(notes["counted"] or not notes["best_effort"]),
            "right": Counter(guess.sequences) == Counter(batch.truth),
        }


def others(checkout: Path, family: str, seed: int, numbers: Sequence[int]) -> Iterator[Cell]:
    """Yield what the attack of another ``checkout`` says of each batch."""
    here = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(checkout), str(here)])
    words = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--side", family]
    words += [str(seed), str(numbers[0]), str(numbers[-1] + 1)]
    environment = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen(
        words, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True
    ) as side:
        assert side.stdout is not None
        for line in side.stdout:
            yield json.loads(line)
    if side.returncode:
        raise SystemExit(f"the attack of {checkout} failed")


def tally(new: Sequence[Cell], old: Sequence[Cell] | None) -> Cell:
    """Return what the two said, by kind; of the other nothing where it is None."""
    kinds: dict[str, Counter[str]] = {}
    wrong, lost = [], []
    for mine, theirs in zip(new, old or [UNREAD] * len(new), strict=True):
        kept = theirs["sure"] and theirs["right"]
        counts = Counter(
            batches=1,
            batches_of_old=old is not None,
            sure=mine["sure"],
            sure_and_wrong=mine["sure"] and not mine["right"],
            old_sure_and_right=kept,
            of_these_still_sure=kept and mine["sure"] and mine["right"],
            old_sure_and_wrong=theirs["sure"] and not theirs["right"],
        )
        wrong += [mine["index"]] * counts["sure_and_wrong"]
        lost += [mine["index"]] * (kept and not mine["sure"])
        told = ["told"] * ("untold" not in mine["kinds"])
        for kind in ("all", *told, *mine["kinds"]):
            kinds.setdefault(kind, Counter()).update(counts)
    figures = {
        kind: {name: int(counts[name]) for name in TALLIES} for kind, counts in kinds.items()
    }
    return {"kinds": figures, "wrong": wrong, "no_longer_sure": lost}


def measure(family: str, options: argparse.Namespace, results: Results) -> None:
    """Measure the batches of ``family`` that are not yet there, a part at a time."""
    parts = [range(first, first + PART) for first in range(0, options.batches, PART)]
    asked = {part: options.against if part.start < options.old else None for part in parts}
    settings = {p: {"seed": options.seed, "against": commit_of(asked[p])} for p in parts}
    missing = [p for p in parts if results.known(_name(family, p), settings[p]) is None]
    if not missing:
        return
    scenes = Scenes(family, options.seed)
    for part in sorted(missing, key=lambda part: asked[part] is not None):  # the slow ones last
        checkout = asked[part]
        new = list(outcomes(scenes, part))
        old = checkout and list(others(checkout.resolve(), family, options.seed, part))
        cell = tally(new, old)
        results.add(_name(family, part), settings[part], cell)
        results.write(table=table(results))
        print(_name(family, part), cell["kinds"]["all"], cell["wrong"], flush=True)


def commit_of(checkout: Path | None) -> str | None:
    """Return the commit of another checkout, if there is one."""
    if checkout is None:
        return None
    words = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, cwd=checkout, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _name(family: str, part: range) -> str:
    return f"{family}-tiny, batches {part.start} to {part.stop - 1}"


def table(results: Results) -> str:
    """Return the figures of each family by kind."""
    rows = []
    for family in FAMILIES:
        kinds: dict[str, Counter[str]] = {}
        for name, cell in results.cells.items():
            if name.startswith(f"{family}-"):
                for kind, counts in cell["kinds"].items():
                    kinds.setdefault(kind, Counter()).update(counts)
        rows += [
            [family, kind, *(counts[name] for name in TALLIES)] for kind, counts in kinds.items()
        ]
    return markdown(["family", "kind", *(name.replace("_", " ") for name in TALLIES)], rows)


def _late(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    """Measure the families asked for; write after each part."""
    signal.signal(signal.SIGALRM, _late)
    if sys.argv[1:2] == ["--side"]:
        family, seed, first, last = sys.argv[2], *map(int, sys.argv[3:])
        torch.set_num_threads(1)
        transformers.logging.set_verbosity_error()
        for outcome in outcomes(Scenes(family, seed), range(first, last)):
            print(json.dumps(outcome), flush=True)
        return
    parser = arguments(__doc__ or "")
    parser.add_argument("--against", type=Path, help="a checkout of the parent")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--batches", type=int, default=3000, help="of each family")
    parser.add_argument("--old", type=int, default=3000, help="of each, that the parent reads, too")
    parser.set_defaults(threads=1)
    options = parser.parse_args()
    results = start(options, "dager_sure", "what DAGER says that it is sure of is so")
    for family in options.family:
        measure(family, options, results)
    print(table(results))


if __name__ == "__main__":
    main()
