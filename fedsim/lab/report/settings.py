"""A sweep's cells, brought together: one point a setting, over its seeds and over its attacks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from fedsim.lab.report import words
from fedsim.lab.report.evidence import Row
from fedsim.lab.report.plots.trade import Point
from fedsim.lab.scoring.intervals import Interval, cluster_interval
from fedsim.lab.scoring.verdict import VERDICT_METRIC
from fedsim.lab.store.summary import Cell
from fedsim.lab.sweep.grid import short_names

SHARES = ("accuracy", "f1")  # utilities in [0, 1]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A cell that has results, its samples, and its swept keys' values as text (no seed)."""

    cell: Cell
    rows: Sequence[Row]
    keys: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All seeds of one setting.

    Attributes:
        point: what the frontier shows of it.
        attack: the one that read most; "" where none was scored.
        exact: share of texts that it read word for word.
        chance: token overlap of its no-gradient control, or None.
        epsilon: the largest over the seeds, or None.
    """

    point: Point
    ran: Sequence[Ran]
    attack: str
    exact: float | None
    chance: float | None
    epsilon: float | None


def together(ran: Sequence[Ran], metric: str) -> list[Setting]:
    """Return the settings in the order of their first cells, numbered from 1.

    Args:
        ran: the cells that have results.
        metric: the utility to show; a cell that measured another has none.
    """
    groups: dict[tuple[str, ...], list[Ran]] = {}
    for one in ran:
        groups.setdefault(tuple(one.keys.values()), []).append(one)
    return [_setting(number, some, metric) for number, some in enumerate(groups.values(), start=1)]


def _setting(number: int, ran: Sequence[Ran], metric: str) -> Setting:
    attacks = dict.fromkeys(row["attack"] for one in ran for row in one.rows)
    leakage = {name: over_updates(ran, name, VERDICT_METRIC) for name in attacks}
    top = max(leakage, key=lambda name: leakage[name].mean, default="")
    summaries = [one.cell.summary for one in ran if one.cell.summary]
    verdicts = [word.verdict for one in summaries for word in one.verdicts.values()]
    used = [one.utility.figures().get(metric) for one in summaries if one.utility]
    measured = [value for value in used if value is not None]
    keys = ran[0].keys
    return Setting(
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
        chance=_chance(ran, top),
        epsilon=_epsilon([(one.guarantee or {}).get("epsilon") for one in summaries]),
    )


def over_updates(ran: Sequence[Ran], attack: str, metric: str) -> Interval:
    """Return the mean of ``metric`` over an attack's samples, clustered by update."""
    updates: dict[tuple[Any, ...], list[float]] = {}
    for one in ran:
        for row in one.rows:
            if row["attack"] == attack:
                place = (one.cell.name, row["round"], row["client"])
                updates.setdefault(place, []).append(row[metric])
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
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    low, high = mean - half, mean + half
    return Interval(mean, max(0.0, low), min(1.0, high)) if share else Interval(mean, low, high)


def _chance(ran: Sequence[Ran], attack: str) -> float | None:
    key = f"control_no_gradient_{VERDICT_METRIC}"
    found = [row[key] for one in ran for row in one.rows if row["attack"] == attack and key in row]
    return fmean(found) if found else None


def _epsilon(values: Sequence[Any]) -> float | None:
    """Return the weakest promise; None where a seed has none."""
    known = [float(value) for value in values if isinstance(value, int | float)]
    return max(known) if known and len(known) == len(values) else None
