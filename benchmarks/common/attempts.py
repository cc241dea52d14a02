"""What the measurements of the DAGER attack share: attacks, their cost and their scores."""

import ctypes
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeVar

from common.results import Cell
from common.victims import Victim, observation, plain, prefixes

from attacks.dager.attack import Dager
from fedsim.errors import UnsupportedObservation
from fedsim.lab.scoring.intervals import cluster_interval
from fedsim.lab.scoring.metrics import Pair, match, sample_metrics
from fedsim.messages import Update
from fedsim.models import ModelAdapter
from fedsim.rng import stream
from fedsim.training import Examples
from fedsim.types import Tokens

SPARE = 20  # a batch with D - SPARE distinct prefixes or more is beyond the method (DAGER, fig. 3)
RATES = ("exact_match", "exact_match_but_last")
METRICS = (*RATES, "token_accuracy", "rouge1", "rouge2")
FAILURES = 25  # described one by one in a cell, at most
T = TypeVar("T")


@dataclass(frozen=True)
class Timed:
    """What a call took; memory is what the process grew by at its peak, in GB.

    ``cpu_seconds`` are summed over threads: well below threads x ``seconds``, the machine was busy
    or the work ran on one thread.
    """

    seconds: float
    cpu_seconds: float
    peak_gb: float


def timed(work: Callable[[], T]) -> tuple[T, Timed]:
    """Run ``work``; return its result, its wall time and its peak memory beyond what was there."""
    before = _start_peak()
    started, processor = time.perf_counter(), time.process_time()
    result = work()
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    grown = max(0.0, _peak() - before)
    return result, Timed(round(seconds, 3), round(processor, 3), round(grown, 3))


def _start_peak() -> float:
    """Return the resident memory in GB, and begin its high-water mark anew where that can be.

    Freed memory that the C library kept is given back first: work that moved into it unseen would
    be missed. Without Linux' /proc the mark is the process' own, and only growth beyond it shows.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        return _peak()
    return _status("VmRSS")


def _peak() -> float:
    """Return the high-water mark of resident memory, in GB."""
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise OSError(f"no {key} in /proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One update, attacked and scored."""

    tokens: int  # n: all tokens of the batch, special ones included
    prefixes: int  # distinct ones: what must stay below D
    longest: int  # T
    samples: list[dict[str, float]]  # metrics, one for each sentence
    failures: list[Cell]  # sentences not recovered exactly
    guesses: int  # that hold text
    surplus: int  # those that stand for no sentence
    cost: Timed
    diagnostics: Mapping[str, bool | int | float] = field(default_factory=dict)
    error: str = ""  # why the attack refused

    @property
    def exact(self) -> int:
        """How many sentences were recovered exactly."""
        return len(self.samples) - len(self.failures)


def attempt(
    who: Victim, update: Update, examples: Examples, *, seed: int, attack: Dager | None = None
) -> Attempt:
    """Attack ``update`` and score the guess against ``examples``."""
    attack = attack or Dager()
    seen = observation(who, update)
    generator = stream(seed, "attack")
    error = ""

    def run() -> tuple[tuple[Tokens, ...], Mapping[str, bool | int | float]]:
        nonlocal error
        try:
            guess = attack.reconstruct(seen, generator)
        except UnsupportedObservation as reason:
            error = str(reason)
            return (), {}
        return guess.sequences, guess.diagnostics

    (sequences, diagnostics), cost = timed(run)
    samples, failures, surplus = score(who.adapter, examples.sequences, sequences)
    return Attempt(
        tokens=sum(map(len, examples.sequences)),
        prefixes=sum(prefixes(examples.sequences)),
        longest=max(map(len, examples.sequences)),
        samples=samples,
        failures=failures,
        guesses=sum(bool(plain(who.adapter, tokens)) for tokens in sequences),
        surplus=surplus,
        cost=cost,
        diagnostics=dict(diagnostics),
        error=error,
    )


def score(
    adapter: ModelAdapter, truths: Sequence[Tokens], guesses: Sequence[Tokens]
) -> tuple[list[dict[str, float]], list[Cell], int]:
    """Return the metrics of each sentence, those not exact, and how many guesses are left over."""
    wanted = [plain(adapter, tokens) for tokens in truths]
    offered = [found for tokens in guesses if (found := plain(adapter, tokens))]
    chosen = match(wanted, offered)
    samples: list[dict[str, float]] = []
    failures: list[Cell] = []
    for truth, place in zip(wanted, chosen, strict=True):
        guess = () if place is None else offered[place]
        pair = Pair(
            truth=truth,
            guess=guess,
            truth_text=str(adapter.tokenizer.decode(list(truth))),
            guess_text=str(adapter.tokenizer.decode(list(guess))),
        )
        metrics = sample_metrics(pair, but_last=adapter.spec.task == "causal-lm")
        samples.append(metrics)
        if not metrics.get("exact_match_but_last", metrics["exact_match"]):
            failures.append(
                {
                    "tokens": len(truth),
                    "guessed_tokens": len(guess),
                    "token_accuracy": round(metrics["token_accuracy"], 3),
                    "prefix_of_another": any(
                        other != truth and other[: len(truth)] == truth for other in wanted
                    ),
                }
            )
    surplus = len(offered) - sum(place is not None for place in chosen)
    return samples, failures, surplus


# Many attacks


def run_batches(
    who: Victim,
    batches: Iterable[Examples],
    make: Callable[[int, Examples], Update],
    *,
    seed: int,
    label: str = "",
) -> list[Attempt]:
    """Attack the update of each batch; ``make`` computes the update of batch number i."""
    attempts = []
    for index, examples in enumerate(batches):
        one = attempt(who, make(index, examples), examples, seed=seed)
        attempts.append(one)
        print(
            f"  {label} batch {index}: {one.exact}/{len(one.samples)} exact, n={one.tokens}, "
            f"{one.prefixes} prefixes, {one.cost.seconds:.1f} s {one.error}",
            flush=True,
        )
    return attempts


def split(attempts: Iterable[Attempt], width: int) -> tuple[list[Attempt], list[Attempt]]:
    """Return the attempts within reach of the method, and those with too many prefixes."""
    limit = width - SPARE
    parts: tuple[list[Attempt], list[Attempt]] = ([], [])
    for one in attempts:
        parts[one.prefixes >= limit].append(one)
    return parts


def having(name: str, updates: Iterable[Sequence[Mapping[str, float]]]) -> list[list[float]]:
    """Return a metric of each update's samples that have it: a text without a word has no ROUGE."""
    groups = [[sample[name] for sample in samples if name in sample] for samples in updates]
    return [group for group in groups if group]


def summary(attempts: Sequence[Attempt], width: int, *, seed: int = 1) -> Cell:
    """Return the figures of a cell; {} for no attempts."""
    if not attempts:
        return {}
    metrics = {
        name: vars(cluster_interval(groups, seed=seed, fraction=name in RATES))
        for name in METRICS
        if (groups := having(name, [one.samples for one in attempts]))
    }
    failures = [
        {"batch": place, "n": one.tokens, "prefixes": one.prefixes, **what}
        for place, one in enumerate(attempts)
        for what in one.failures
    ]
    sentences = sum(len(one.samples) for one in attempts)
    exact, surplus = sentences - len(failures), sum(one.surplus for one in attempts)
    guesses = sum(one.guesses for one in attempts)
    return {
        "batches": len(attempts),
        "sentences": sentences,
        "exact": exact,
        "surplus_guesses": surplus,
        "precision": round(exact / guesses, 4) if guesses else None,
        "metrics": metrics,
        "d": width,
        "n": _middle([one.tokens for one in attempts]),
        "distinct_prefixes": _middle([one.prefixes for one in attempts]),
        "longest": _middle([one.longest for one in attempts]),
        "seconds": _middle([one.cost.seconds for one in attempts]),
        "cpu_seconds": _middle([one.cost.cpu_seconds for one in attempts]),
        "peak_gb_beyond_model": max(one.cost.peak_gb for one in attempts),
        "diagnostics": _diagnostics(attempts),
        "unsupported": sorted({one.error for one in attempts if one.error}),
        "failures": len(failures),
        "first_failures": failures[:FAILURES],
    }


def _middle(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "max": max(values)}


def _diagnostics(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return each diagnostic's median and maximum; of a truth value how often it held."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(key for one in attempts for key in one.diagnostics):
        values = [one.diagnostics[name] for one in attempts if name in one.diagnostics]
        truths = all(isinstance(value, bool) for value in values)
        found[name] = {"times": sum(values)} if truths else _middle(values)
    return found


def share(cell: Cell, name: str = "exact_match") -> float:
    """Return a metric's mean in a cell, or that without the last token where there is such."""
    metrics = cell["metrics"]
    return float(metrics.get(f"{name}_but_last", metrics[name])["mean"])


def average(attempts: Sequence[Attempt], metric: str) -> float:
    """Return a metric's mean over all sentences."""
    return fmean(sample[metric] for one in attempts for sample in one.samples)
