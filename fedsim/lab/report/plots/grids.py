"""Leakage over two swept keys, as heat maps."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fedsim.lab.config.labels import short_names
from fedsim.lab.report.plots.canvas import NARROW, Colours, Plot, cut, new_figure
from fedsim.lab.report.plots.theme import step
from fedsim.lab.report.plots.timeline import legend, paint


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
    values_at: dict[tuple[str, str], list[float]] = {}
    for keys, value in cells:
        here = values_at.setdefault((keys[x], keys[y]), [])
        if value is not None:
            here.append(value)
    over = [key for key in axes if key not in (x, y)]
    known = {place: fmean(values) for place, values in values_at.items() if values}
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
        return _draw_map(width, colours, x, y, axes, values_at)

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
    values_at: Mapping[tuple[str, str], Sequence[float]],
) -> Figure:
    across, down = list(axes[x]), list(axes[y])
    width = min(width, max(NARROW, 120 + 64 * len(across)))
    room = (width - 110) / len(across)
    longest = max(len(cut(value)) for value in across)
    turn = 40 if longest * 6.5 > room else 0
    figure = new_figure(width, 112 + 40 * len(down) + (4 * longest if turn else 0), colours)
    plot = figure.add_subplot()
    for i, right in enumerate(across):
        for j, below in enumerate(down):
            values = values_at.get((right, below))
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
        [i + 0.5 for i in range(len(across))], [cut(value) for value in across],
        rotation=turn, ha="right" if turn else "center",
    )  # fmt: skip
    plot.set_yticks([j + 0.5 for j in range(len(down))], [cut(value) for value in down])
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
