"""A sweep's cells, brought together: one point a setting, over its seeds and over its attacks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit

from fedsim.lab.config.labels import short_names
from fedsim.lab.report import words
from fedsim.lab.report.plots.trade import Point
from fedsim.lab.scoring.intervals import cluster_interval
from fedsim.lab.store.attempts import AttackRecord
from fedsim.lab.store.figures import VERDICT_METRIC, Interval
from fedsim.lab.store.samples import Sample
from fedsim.lab.store.summary import Summary
from fedsim.lab.store.sweep import RunResult

SHARES = ("accuracy", "f1")  # utilities in [0, 1]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A cell that has results.

    Attributes:
        cell: what it is.
        summary: its results.
        samples: its samples.
        attempts: what was said of each update.
        keys: its swept keys' values as text, but for the seed.
    """

    cell: RunResult
    summary: Summary
    samples: Sequence[Sample]
    attempts: Sequence[AttackRecord]
    keys: Mapping[str, str]

    def of(self, attack: str) -> list[Sample]:
        """Return the samples of one attack."""
        return [sample for sample in self.samples if sample.attack == attack]


@dataclass(frozen=True, kw_only=True)
class SweptSetting:
    """All seeds of one setting.

    Attributes:
        point: what the frontier shows of it.
        attack: the one that read most; "" where none was scored.
        exact: share of texts that it read word for word.
        precision: share of its guesses that are right, or None: it made none.
        chance: token overlap of its no-gradient control, or None.
        epsilon: the largest over the seeds, or None.
    """

    point: Point
    ran: Sequence[Ran]
    attack: str
    exact: float | None
    precision: float | None
    chance: float | None
    epsilon: float | None


def together(ran: Sequence[Ran], metric: str) -> list[SweptSetting]:
    """Return the settings in the order of their first cells, numbered from 1.

    Args:
        ran: the cells that have results.
        metric: the utility to show; a cell that measured another has none.
    """
    groups: dict[tuple[str, ...], list[Ran]] = {}
    for cell in ran:
        groups.setdefault(tuple(cell.keys.values()), []).append(cell)
    return [_setting(number, some, metric) for number, some in enumerate(groups.values(), start=1)]


def _setting(number: int, ran: Sequence[Ran], metric: str) -> SweptSetting:
    attacks = dict.fromkeys(sample.attack for cell in ran for sample in cell.samples)
    leakage = {name: over_updates(ran, name, VERDICT_METRIC) for name in attacks}
    top = max(leakage, key=lambda name: leakage[name].mean, default="")
    summaries = [cell.summary for cell in ran]
    verdicts = [summary.overall.verdict for summary in summaries]
    used = [summary.utility.figures().get(metric) for summary in summaries if summary.utility]
    measured = [value for value in used if value is not None]
    keys = ran[0].keys
    return SweptSetting(
        point=Point(
            number=number,
            label=", ".join(f"{name} {keys[key]}" for key, name in short_names(keys).items()),
            keys=keys,
            leakage=leakage.get(top),
            utility=over_seeds(measured, share=metric in SHARES) if measured else None,
            verdict=words.worst(verdicts),
        ),
        ran=ran,
        attack=top,
        exact=over_updates(ran, top, "exact_match").mean if top else None,
        precision=_precision(ran, top),
        chance=_chance(ran, top),
        epsilon=_weakest([summary.epsilon for summary in summaries]),
    )


def over_updates(ran: Sequence[Ran], attack: str, metric: str) -> Interval:
    """Return the mean of ``metric`` over an attack's samples, clustered by update."""
    updates: dict[tuple[Any, ...], list[float]] = {}
    for run in ran:
        for sample in run.of(attack):
            place = (run.cell.name, sample.round, sample.client)
            updates.setdefault(place, []).append(sample.metrics[metric])
    return cluster_interval(list(updates.values()), seed=0, fraction=True)


def over_seeds(values: Sequence[float], *, share: bool = False) -> Interval:
    """Return the mean and its 95 % interval by Student's t; of one value no interval (width 0).

    Args:
        values: one for each seed.
        share: they are in [0, 1], so the interval ends there.
    """
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, mean, mean)
    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    low, high = mean - half, mean + half
    return Interval(mean, max(0.0, low), min(1.0, high)) if share else Interval(mean, low, high)


def _precision(ran: Sequence[Ran], attack: str) -> float | None:
    entries = [e for cell in ran for e in cell.summary.attacks if e.attack == attack]
    known = [e for e in entries if "precision" in e.metrics and e.count("precision")]
    if not known:
        return None
    return fmean(
        [e.metrics["precision"] for e in known], weights=[e.count("precision") for e in known]
    )


def _chance(ran: Sequence[Ran], attack: str) -> float | None:
    figures = [sample.chance for cell in ran for sample in cell.of(attack)]
    known = [chance for chance in figures if chance is not None]
    return fmean(known) if known else None


def _weakest(values: Sequence[float | None]) -> float | None:
    """Return the weakest promise; None where a seed has none."""
    known = [float(value) for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None
