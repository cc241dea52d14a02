"""A sweep's plots: leakage over two swept keys, and what it costs in utility to leak less."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fedsim.lab.grid import short_names
from fedsim.lab.intervals import Interval
from fedsim.lab.report.canvas import NARROW, Colours, Plot, cut, new_figure
from fedsim.lab.report.theme import step
from fedsim.lab.report.timeline import legend, paint
from fedsim.lab.verdict import Verdict

MARKERS: Mapping[Verdict, str] = {"leak": "o", "no-leak": "s", "inconclusive": "^"}
AROUND = ((6, 5), (-14, 5), (6, -13), (-14, -13))  # where a point's number goes, in pixels
TONES: Mapping[Verdict, str] = {"leak": "leak", "no-leak": "safe", "inconclusive": "open"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting of a sweep, over its seeds.

    Attributes:
        number: in the table beside the plot, from 1.
        label: what was swept, in words.
        keys: the swept keys' values, as text, in order.
        leakage: token overlap (bag F1) of the attack that read most; None where none was scored.
        utility: the model's after the last round; None where it was not measured.
        verdict: the worst over attacks and seeds.
    """

    number: int
    label: str
    keys: Mapping[str, str]
    leakage: Interval | None
    utility: Interval | None
    verdict: Verdict


def heat_maps(attack: str, axes: Mapping[str, Sequence[str]], cells: Sequence[Any]) -> list[Plot]:
    """Return a plot for every two swept keys.

    Args:
        attack: whose leakage it is.
        axes: the swept keys and their values as text, in the order they were asked for.
        cells: (values by key, leakage in [0, 1] or None for a cell that failed) each.
    """
    return [_heat_map(attack, x, y, axes, cells) for y, x in combinations(axes, 2)]


def _heat_map(
    attack: str, x: str, y: str, axes: Mapping[str, Sequence[str]], cells: Sequence[Any]
) -> Plot:
    found: dict[tuple[str, str], list[float]] = {}
    for keys, value in cells:
        here = found.setdefault((keys[x], keys[y]), [])
        if value is not None:
            here.append(value)
    over = [key for key in axes if key not in (x, y)]
    known = {place: fmean(values) for place, values in found.items() if values}
    words = ""
    if known:
        low, high = (f(known, key=lambda place: known[place]) for f in (min, max))
        words = (
            f" Least at {x} = {low[0]}, {y} = {low[1]}: {known[low]:.2f}; "
            f"most at {x} = {high[0]}, {y} = {high[1]}: {known[high]:.2f}."
        )
    short = short_names(axes)
    means = f"Means over {', '.join([*over, 'seeds'])}; " if over else "Means over seeds; "

    def draw(width: int, colours: Colours) -> Figure:
        return _draw_map(width, colours, x, y, axes, found)

    return Plot(
        name=f"heat-{attack}-{short[x]}-{short[y]}",
        title=f"{attack}: {short[y]} × {short[x]}",
        alt=f"Token overlap that {attack} reached, by {x} and {y}.{words}",
        caption=f"{means}in brackets the most of them, where that is more.",
        draw=draw,
    )


def _draw_map(
    width: int,
    colours: Colours,
    x: str,
    y: str,
    axes: Mapping[str, Sequence[str]],
    found: Mapping[tuple[str, str], Sequence[float]],
) -> Figure:
    across, down = list(axes[x]), list(axes[y])
    width = min(width, max(NARROW, 120 + 64 * len(across)))
    room = (width - 110) / len(across)
    longest = max(len(cut(one)) for one in across)
    turn = 40 if longest * 6.5 > room else 0
    figure = new_figure(width, 112 + 40 * len(down) + (4 * longest if turn else 0), colours)
    plot = figure.add_subplot()
    for i, right in enumerate(across):
        for j, below in enumerate(down):
            values = found.get((right, below))
            level = step(fmean(values)) if values else None
            face = "none" if level is None else colours[f"ramp{level}"]
            box = Rectangle((i, j), 1, 1, facecolor=face, edgecolor=colours["ground"], linewidth=2)
            plot.add_patch(box)
            ink = colours["soft" if level is None else f"on{level}"]
            plot.text(
                i + 0.5, j + 0.5, _said(values, room), color=ink, ha="center", va="center",
                fontsize=12 if room > 40 else 10, linespacing=1.25,
            )  # fmt: skip
    plot.set_xticks(
        [i + 0.5 for i in range(len(across))], [cut(one) for one in across],
        rotation=turn, ha="right" if turn else "center",
    )  # fmt: skip
    plot.set_yticks([j + 0.5 for j in range(len(down))], [cut(one) for one in down])
    plot.set_xlim(0, len(across))
    plot.set_ylim(len(down), 0)
    short = short_names(axes)
    plot.set_xlabel(short[x])
    plot.set_ylabel(short[y])
    paint(plot, colours)
    plot.tick_params(length=0)
    for side in plot.spines.values():
        side.set_visible(False)
    legend(figure, colours, "mean token overlap (bag F1)")
    return figure


def _said(values: Sequence[float] | None, room: float) -> str:
    if values is None:
        return ""
    if not values:
        return "failed" if room > 40 else "×"
    mean, most = fmean(values), max(values)
    return f"{mean:.2f}\n({most:.2f})" if most - mean >= 0.005 else f"{mean:.2f}"


def frontier(points: Sequence[Point], metric: str) -> Plot:
    """Return the plot of utility over leakage, the settings nothing else beats joined by a line."""
    shown = [one for one in points if one.utility is not None and one.leakage is not None]
    lower = metric == "perplexity"
    best = _unbeaten(shown, lower=lower)
    names = "; ".join(f"{one.number} {cut(one.label, 60)}" for one in best[:8])

    def draw(width: int, colours: Colours) -> Figure:
        return _draw_frontier(width, colours, shown, best, metric)

    return Plot(
        name="frontier",
        title=f"Utility ({metric}) against leakage",
        alt=f"{len(shown)} settings by leakage and {metric}. No other setting leaks less at a "
        f"better {metric} than: {names}.",
        caption="Numbers are those of the table below. Bars are 95 % intervals. The line joins "
        f"the settings that no other beats in both; {metric} is better "
        f"{'lower' if lower else 'higher'}. ● leak, ■ no leak, ▲ inconclusive.",
        draw=draw,
    )


def _unbeaten(points: Sequence[Point], *, lower: bool) -> list[Point]:
    """Return the settings that none beats in both, by rising leakage."""
    sign = -1 if lower else 1
    best: list[Point] = []
    top = float("-inf")
    for one in sorted(points, key=lambda p: (_leak(p), -sign * _worth(p))):
        if sign * _worth(one) > top:
            best.append(one)
            top = sign * _worth(one)
    return best


def _leak(point: Point) -> float:
    assert point.leakage is not None
    return point.leakage.mean


def _worth(point: Point) -> float:
    assert point.utility is not None
    return point.utility.mean


def _draw_frontier(
    width: int, colours: Colours, points: Sequence[Point], best: Sequence[Point], metric: str
) -> Figure:
    figure = new_figure(width, 380, colours)
    worths = [_worth(one) for one in points]
    span = max(worths) - min(worths)
    axes = figure.add_subplot()
    line = [(_leak(one), _worth(one)) for one in best]
    axes.plot(*zip(*line, strict=True), color=colours["line"], linewidth=2, zorder=1)
    placed: list[tuple[float, float]] = []
    for one in points:
        assert one.utility is not None and one.leakage is not None
        x, y, tone = one.leakage, one.utility, colours[TONES[one.verdict]]
        axes.errorbar(
            x.mean, y.mean, color=tone, ecolor=tone, elinewidth=1, markersize=7,
            xerr=[[max(0.0, x.mean - x.low)], [max(0.0, x.high - x.mean)]],
            yerr=[[max(0.0, y.mean - y.low)], [max(0.0, y.high - y.mean)]],
            marker=MARKERS[one.verdict], zorder=2,
        )  # fmt: skip
        near = [p for p in placed if abs(p[0] - x.mean) < 0.05 and abs(p[1] - y.mean) < span / 12]
        placed.append((x.mean, y.mean))
        axes.annotate(
            str(one.number), (x.mean, y.mean), xytext=AROUND[len(near) % len(AROUND)],
            textcoords="offset points",
            color=colours["ink"], fontsize=11,
        )  # fmt: skip
    axes.set_xlim(-0.04, 1.06)
    axes.margins(y=0.12)
    axes.set_xlabel("leakage: token overlap (bag F1)")
    axes.set_ylabel(metric)
    paint(axes, colours)
    return figure
