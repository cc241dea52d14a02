"""Utility against leakage: what a setting costs, and which settings nothing else beats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.figure import Figure

from fedsim.lab.report.plots.canvas import Colours, Plot, cut, new_figure
from fedsim.lab.report.plots.timeline import paint
from fedsim.lab.store.figures import Interval, Verdict

MARKERS: Mapping[Verdict, str] = {"leak": "o", "no-leak": "s", "inconclusive": "^"}
HEIGHT = 380  # of the plot, in pixels; about AROUND of them are not its field
AROUND = 60
LANE = 4  # pixels between settings of the same utility, so that each interval is seen
CLOSE = (16, 11)  # pixels, across and down: settings this near share one label
LISTED = 4  # numbers in a label at most
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


def frontier(points: Sequence[Point], metric: str) -> Plot:
    """Return the plot of utility over leakage, the settings nothing else beats joined by a line."""
    shown = [point for point in points if point.utility is not None and point.leakage is not None]
    lower = metric == "perplexity"
    best = _unbeaten(shown, lower=lower)
    names = "; ".join(f"{point.number} {cut(point.label, 60)}" for point in best[:8])

    def draw(width: int, colours: Colours) -> Figure:
        return _draw_frontier(width, colours, shown, best, metric)

    return Plot(
        name="frontier",
        title=f"Utility ({metric}) against leakage",
        alt=f"{len(shown)} settings by leakage and {metric}. No other setting leaks less at a "
        f"better {metric} than: {names}.",
        caption="Numbers are those of the table below. Bars are 95 % intervals; settings of one "
        "utility are drawn a few pixels apart. The line joins "
        f"the settings that no other beats in both; {metric} is better "
        f"{'lower' if lower else 'higher'}. ● leak, ■ no leak, ▲ inconclusive.",
        draw=draw,
    )


def _unbeaten(points: Sequence[Point], *, lower: bool) -> list[Point]:
    """Return the settings that none beats in both, by rising leakage."""
    sign = -1 if lower else 1
    best: list[Point] = []
    top = float("-inf")
    for point in sorted(points, key=lambda p: (_leak(p), -sign * _worth(p))):
        if sign * _worth(point) > top:
            best.append(point)
            top = sign * _worth(point)
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
    figure = new_figure(width, HEIGHT, colours)
    axes = figure.add_subplot()
    low, high = _ends([_worth(point) for point in points])
    field, up = width - AROUND, (HEIGHT - AROUND) / (high - low)  # pixels; pixels per unit
    labels = [(group, _numbers(group)) for group in _together(points, field, up)]
    left = max(12.0 + 6.5 * len(text) - field * min(map(_leak, group)) for group, text in labels)
    axes.set_xlim(-1.06 * left / (field - left), 1.06)
    axes.set_ylim(low, high)
    line = [(_leak(point), _worth(point)) for point in best]
    axes.plot(*zip(*line, strict=True), color=colours["line"], linewidth=2, zorder=1)
    for point, lane in zip(points, _lanes(points, up), strict=True):
        assert point.utility is not None and point.leakage is not None
        x, y, tone = point.leakage, point.utility, colours[TONES[point.verdict]]
        axes.errorbar(
            x.mean, y.mean + lane / up, color=tone, ecolor=tone, elinewidth=1, capsize=3,
            markersize=7, marker=MARKERS[point.verdict], zorder=2,
            xerr=[[max(0.0, x.mean - x.low)], [max(0.0, x.high - x.mean)]],
            yerr=[[max(0.0, y.mean - y.low)], [max(0.0, y.high - y.mean)]],
        )  # fmt: skip
    for group, text in labels:
        axes.annotate(
            text, (min(map(_leak, group)), fmean(map(_worth, group))), xytext=(-8, 0),
            textcoords="offset points", ha="right", va="center", color=colours["ink"], fontsize=11,
            bbox={"facecolor": colours["ground"], "edgecolor": "none", "pad": 1}, zorder=3,
        )  # fmt: skip
    axes.set_xticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_xlabel("leakage: token overlap (bag F1)")
    axes.set_ylabel(metric)
    paint(axes, colours)
    return figure


def _ends(worths: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the axis; of one value alone it is still an axis."""
    low, high = min(worths), max(worths)
    room = 0.12 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _lanes(points: Sequence[Point], up: float) -> list[float]:
    """Return by how many pixels each point is raised: settings of one utility would hide others."""
    rows: list[list[Point]] = []
    for point in sorted(points, key=lambda p: (_worth(p), _leak(p))):
        if rows and (_worth(point) - _worth(rows[-1][0])) * up < LANE:
            rows[-1].append(point)
        else:
            rows.append([point])
    raised: dict[int, float] = {}
    for row in rows:
        different = list(dict.fromkeys((point.leakage, point.verdict) for point in row))
        lane = min(LANE, 4 * LANE / len(different))
        for point in row:
            place = different.index((point.leakage, point.verdict))
            raised[point.number] = lane * (place - (len(different) - 1) / 2)
    return [raised[point.number] for point in points]


def _together(points: Sequence[Point], field: float, up: float) -> list[list[Point]]:
    """Return the points in groups that are too close for a label each."""
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda p: (_worth(p), _leak(p))):
        for group in groups:
            across = abs(_leak(point) - _leak(group[0])) * field
            down = abs(_worth(point) - _worth(group[0])) * up
            if across < CLOSE[0] and down < CLOSE[1]:
                group.append(point)
                break
        else:
            groups.append([point])
    return groups


def _numbers(group: Sequence[Point]) -> str:
    numbers = sorted(point.number for point in group)
    more = len(numbers) - LISTED
    return ", ".join(map(str, numbers[:LISTED])) + (f", +{more}" if more > 0 else "")
