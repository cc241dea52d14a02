"""How far may each of DAGER's numbers move before what it reads changes?

Multiplies each number of attacks/dager/thresholds.py by 0.7 and by 1.4, one at a time (whole
numbers are rounded and move by one at least; a share ends at 1), and attacks the updates of
regimes.py again. A number is moved in those regimes alone in which the attack reads it: the others
cannot change. Besides: the attack's settings, with lower limits than its own, and what tells weight
decay. Told are the sentences read exactly, the guesses beside them, and the work: (prefix, token)
pairs and an encoder's solves. Where another seed of the attack's own draws changes the guesses, the
regime is not steady, and a number's move tells little apart from that. Writes
results/dager_sensitivity.json, a regime at a time.

    python benchmarks/run.py dager/sensitivity [--only WORD ...]
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from common.results import Cell, Results, arguments, markdown, start
from dager.regimes import REGIMES, Batch, Regime

from attacks import Dager
from attacks.dager import thresholds
from attacks.reads import decay
from fedsim.rng import stream

FACTORS = (0.7, 1.4)
SEED = 1  # of the attack's draws
OTHERS = (2, 3, 4)  # seeds that tell whether a regime is steady
SETTINGS = {"max_prefixes": 1024, "max_pairs": 100_000, "max_searches": 40}  # of the attack
DECAY = ("ROWS", "SAMPLE", "ALIKE")  # of attacks.reads.decay
NUMBERS = tuple(name for name in vars(thresholds) if name.isupper())


class Reads:
    """Stands in for the thresholds and notes which of them are read."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(thresholds, name)


@contextmanager
def noting() -> Iterator[Reads]:
    """Have every module of DAGER read its numbers from what is yielded."""
    reads = Reads()
    users = [
        module
        for name, module in sys.modules.items()
        if name.startswith("attacks.dager") and vars(module).get("thresholds") is thresholds
    ]
    for module in users:
        vars(module)["thresholds"] = reads
    try:
        yield reads
    finally:
        for module in users:
            vars(module)["thresholds"] = thresholds


@contextmanager
def moved(home: Any, name: str, value: Any) -> Iterator[None]:
    """Have ``home``'s number be ``value``."""
    before = getattr(home, name)
    setattr(home, name, value)
    try:
        yield
    finally:
        setattr(home, name, before)


def scaled(value: Any, factor: float) -> Any:
    """Return a number, or each of several, times ``factor``: of its kind, and another one."""
    if isinstance(value, tuple):
        return tuple(scaled(part, factor) for part in value)
    if isinstance(value, int):
        whole = round(value * factor)
        return whole if whole != value else value + (1 if factor > 1 else -1)
    return min(value * factor, 1.0) if value < 1 else value * factor


def attack(batches: Sequence[Batch], settings: dict[str, int], seed: int = SEED) -> Cell:
    """Return what the attack reads of ``batches``, and its work."""
    outcome = {"exact": 0, "guesses": 0, "work": 0, "solves": 0}
    guesses, began = [], time.process_time()
    for index, (observation, truth) in enumerate(batches):
        guess = Dager(**settings).reconstruct(observation, stream(seed, "attack", index))
        read = Counter(truth) & Counter(guess.sequences)
        outcome["exact"] += read.total()
        outcome["guesses"] += len(guess.sequences)
        outcome["work"] += int(guess.diagnostics["pairs_checked"])
        outcome["work"] += thresholds.IN_FULL * int(guess.diagnostics["pairs_in_full"])
        outcome["solves"] += int(guess.diagnostics.get("solves", 0))
        guesses.append(sorted(guess.sequences))
    seconds = round(time.process_time() - began, 2)
    return {**outcome, "cpu_seconds": seconds, "guesses_as_text": repr(guesses)}


def tried(attempt: Callable[[], Cell], base: Cell) -> Cell:
    """Return what ``attempt`` gives, but for what is as in ``base``."""
    try:
        outcome = attempt()
    except Exception as failure:  # a number that may not be so is a result here
        return {"error": f"{type(failure).__name__}: {failure}"[:200]}
    same = outcome["guesses_as_text"] == base["guesses_as_text"]
    changed = {
        key: outcome[key]
        for key in ("exact", "guesses", "work", "solves")
        if outcome[key] != base[key]
    }
    if not same:
        changed |= {"exact": outcome["exact"], "guesses": outcome["guesses"]}
    return {**changed, "same_guesses": same, "cpu_seconds": outcome["cpu_seconds"]}


def measure(regime: Regime, seed: int) -> Cell:
    """Return what moving each number that ``regime`` reads does to it."""
    batches = list(regime.make(seed))
    with noting() as reads:
        attack(batches, SETTINGS)  # which numbers are read; and the first run is slower
    base = attack(batches, SETTINGS)
    homes: list[tuple[str, Any]] = [(name, thresholds) for name in NUMBERS if name in reads.names]
    if batches[0][0].update.kind == "delta":
        homes += [(name, decay) for name in DECAY]
    numbers = {name: moves(batches, base, name, home) for name, home in homes}
    numbers |= {name: moves(batches, base, name, None) for name in SETTINGS}
    seeds = other_seeds(batches, base)
    return {
        "updates": len(batches),
        "sentences": sum(len(truth) for _, truth in batches),
        "base": {key: value for key, value in base.items() if key != "guesses_as_text"},
        "steady": all(outcome["same_guesses"] for outcome in seeds.values()),
        "seeds": seeds,
        "numbers": numbers,
    }


def moves(batches: Sequence[Batch], base: Cell, name: str, home: Any) -> Cell:
    """Return what moving a number of ``home`` does, or one of the settings where that is None."""
    outcomes = {}
    for factor in FACTORS:
        if home is None:
            value = scaled(SETTINGS[name], factor)
            settings = {**SETTINGS, name: value}
            outcome = tried(lambda chosen=settings: attack(batches, chosen), base)  # type: ignore[misc]
        else:
            value = scaled(getattr(home, name), factor)
            with moved(home, name, value):
                outcome = tried(lambda: attack(batches, SETTINGS), base)
        outcomes[f"x{factor}"] = {"value": value, **outcome}
    return outcomes


def other_seeds(batches: Sequence[Batch], base: Cell) -> Cell:
    """Return what other draws of the attack alone do."""
    return {
        f"seed {seed}": tried(lambda seed=seed: attack(batches, SETTINGS, seed), base)  # type: ignore[misc]
        for seed in OTHERS
    }


def table(results: Results) -> str:
    """Return what each number's moves change, number by number."""
    rows = []
    homes = {**{name: decay for name in DECAY}, **{name: thresholds for name in NUMBERS}}
    for name in (*NUMBERS, *DECAY, *SETTINGS):
        value = SETTINGS[name] if name in SETTINGS else getattr(homes[name], name)
        used = {key: cell for key, cell in results.cells.items() if name in cell["numbers"]}
        changes = [summed(used, name, f"x{factor}") for factor in FACTORS]
        rows.append([name, value, len(used), *changes])
    return markdown(["number", "value", "regimes", *(f"x{factor}" for factor in FACTORS)], rows)


def summed(used: dict[str, Cell], name: str, factor: str) -> str:
    """Return where the guesses of the cells ``used`` change, and how; where work grows."""
    changes = []
    for key, cell in used.items():
        outcome, base = cell["numbers"][name][factor], cell["base"]
        key = key if cell["steady"] else f"{key} (not steady)"
        if "error" in outcome:
            changes.append(f"{key}: {outcome['error'].partition(':')[0]}")
            continue
        if not outcome["same_guesses"]:
            exact, false = outcome["exact"], outcome["guesses"] - outcome["exact"]
            before = f"{base['exact']} + {base['guesses'] - base['exact']} false"
            changes.append(f"{key}: {before} -> {exact} + {false} false")
        for work in ("work", "solves"):
            if outcome.get(work, base[work]) > 1.5 * base[work]:
                changes.append(f"{key}: {outcome[work] / max(base[work], 1):.1f} x {work}")
    return "; ".join(changes) or "nothing"


def main() -> None:
    """Measure the regimes asked for; write after each."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", nargs="+", default=[], help="regimes whose name has a word")
    parser.set_defaults(threads=1)
    options: argparse.Namespace = parser.parse_args()
    claim = "how far each of DAGER's numbers may move before what it reads changes"
    results = start(options, "dager_sensitivity", claim, factors=FACTORS)
    for name, regime in REGIMES.items():
        if options.only and not any(word in name for word in options.only):
            continue
        settings = {"seed": options.seed, "factors": list(FACTORS)}
        cell = results.cell(name, settings, lambda r=regime: measure(r, options.seed))  # type: ignore[misc]
        base = cell["base"]
        print(f"  {base['exact']}/{cell['sentences']} exact, {base['cpu_seconds']} s", flush=True)
    text = table(results)
    results.write(table=text)
    print(text)


if __name__ == "__main__":
    main()
