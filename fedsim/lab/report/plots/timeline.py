"""Leakage over the rounds, client by client, sample by sample; and the utility beside it."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fedsim.lab.report.plots.canvas import Colours, Plot, cut, new_figure
from fedsim.lab.report.plots.theme import STEPS, step
from fedsim.lab.store.records import whose
from fedsim.lab.store.samples import Sample
from fedsim.lab.store.summary import Utility

MOST = 4000  # rectangles; beyond that an update is one, with its mean

Updates = dict[tuple[int, Any], list[float]]  # (round, client) -> leakage of its samples


def timeline(attack: str, samples: Sequence[Sample]) -> Plot:
    """Return the plot of every sample that ``attack`` was run on: a row a client, over rounds."""
    updates: Updates = {}
    for sample in samples:
        updates.setdefault((sample.round, whose(sample)), []).append(sample.overlap)
    for values in updates.values():
        values.sort(reverse=True)
    means = {place: fmean(values) for place, values in updates.items()}
    worst = max(means, key=lambda place: means[place])
    whole = len(samples) > MOST
    what = "One cell a client's update" if whole else "One bar a sample, in its client's update"
    return Plot(
        name=f"timeline-{attack}",
        title=f"{attack}: what was read, round by round",
        alt=(
            f"Token overlap of {len(samples)} samples in {len(updates)} updates over "
            f"{len({r for r, _ in updates})} rounds and {len({c for _, c in updates})} clients. "
            f"Mean {fmean(v for vs in updates.values() for v in vs):.2f}; the update most read is "
            f"that of client {worst[1]} in round {worst[0]}, mean {means[worst]:.2f}."
        ),
        caption=f"{what}, the most read first; the darker in a light page, the lighter in a dark "
        "one, the more of its tokens were read.",
        draw=lambda width, colours: _draw(
            width, colours, {k: [means[k]] for k in updates} if whole else updates
        ),
    )


def _draw(width: int, colours: Colours, updates: Updates) -> Figure:
    rounds = sorted({round_ for round_, _ in updates})
    clients = sorted(
        {client for _, client in updates}, key=lambda client: (str(type(client)), client)
    )
    row = max(4.0, min(22.0, 600 / len(clients)))
    figure = new_figure(width, 92 + row * len(clients), colours)
    axes = figure.add_subplot()
    columns = {round_: x for x, round_ in enumerate(rounds)}
    rows = {client: y for y, client in enumerate(clients)}
    boxes: list[Rectangle] = []
    faces: list[str] = []
    for (round_, client), values in updates.items():
        x, y, part = columns[round_] + 0.04, rows[client] - 0.42, 0.92 / len(values)
        for k, value in enumerate(values):
            gap = 0.12 * part if len(values) > 1 else 0.0
            boxes.append(Rectangle((x + k * part, y), part - gap, 0.84))
            faces.append(colours[f"ramp{step(value)}"])
    edge = colours["line"] if len(boxes) <= 400 else "none"
    axes.add_collection(PatchCollection(boxes, facecolors=faces, edgecolors=edge, linewidths=0.5))
    axes.set_xlim(0, len(rounds))
    axes.set_ylim(len(clients) - 0.4, -0.6)
    every = max(1, -(-len(rounds) // max(1, width // 48)))
    axes.set_xticks([columns[r] + 0.5 for r in rounds[::every]], [str(r) for r in rounds[::every]])
    every = max(1, round(14 / row))
    axes.set_yticks([rows[c] for c in clients[::every]], [cut(str(c)) for c in clients[::every]])
    axes.set_xlabel("round")
    axes.set_ylabel("client")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    paint(axes, colours)
    legend(figure, colours, "share of a sample's tokens that were read (bag F1)")
    return figure


def legend(figure: Figure, colours: Colours, label: str) -> None:
    """Draw the ramp's steps above the figure, with the values at which they begin."""
    scale = figure.add_axes((0.0, 0.0, 1.0, 1.0), label="scale")
    width, height = figure.get_size_inches() * 72
    scale.set_xlim(0, width)
    scale.set_ylim(height, 0)
    scale.axis("off")
    scale.set_in_layout(False)
    part = min(28, (width - 16) / STEPS)
    for k in range(STEPS):
        scale.add_patch(
            Rectangle(
                (4 + k * part, 20), part, 9, facecolor=colours[f"ramp{k}"],
                edgecolor=colours["line"], linewidth=0.5,
            )
        )  # fmt: skip
    scale.text(4, 13, label, color=colours["soft"], fontsize=11)
    for k, text in ((0, "0"), (4, "½"), (STEPS - 1, "1")):
        x = 4 + (k + (0.5 if k == STEPS - 1 else 0)) * part
        align = "center" if k else "left"
        scale.text(x, 41, text, color=colours["soft"], fontsize=11, ha=align)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0.0, 0.0, 1.0, 1 - 48 / height))  # type: ignore[call-arg]


def paint(axes: Axes, colours: Colours) -> None:
    """Give labels, ticks and spines the page's ink."""
    axes.set_facecolor("none")
    axes.tick_params(colors=colours["soft"], labelsize=11)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(colours["soft"])
        label.set_fontsize(11)
    for side in axes.spines.values():
        side.set_color(colours["line"])


def utility_plot(utility: Utility) -> Plot:
    """Return the plot of the utility over the rounds."""
    values = [utility.before, *utility.per_round]

    def draw(width: int, colours: Colours) -> Figure:
        figure = new_figure(width, 190, colours)
        axes = figure.add_subplot()
        axes.plot(range(len(values)), values, color=colours["ramp6"], linewidth=2, marker="o")
        axes.set_xlabel("round")
        axes.set_ylabel(utility.metric)
        axes.locator_params(axis="x", integer=True, nbins=width // 60)
        axes.margins(y=0.15)
        paint(axes, colours)
        return figure

    return Plot(
        name="utility",
        title=f"Utility ({utility.metric}) on held-out text, round by round",
        alt=f"{utility.metric} goes from {values[0]:.3f} before the first round to "
        f"{values[-1]:.3f} after round {len(values) - 1}.",
        caption="Round 0 is the model before any training.",
        draw=draw,
    )
