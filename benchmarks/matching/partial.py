"""Partial gradients: which layer, which module is enough for LAMP (arXiv:2406.00999).

MiniLM's six trained layers, CoLA, B = 1, the papers' knowledge; every module of every layer alone,
whole layers, the whole encoder, everything; p also mixed with o, as the paper's code had it. Draws
results/matching_partial.svg and .png, a heat map of ROUGE-1. Cells can be run one by one.
"""

import functools
import math
from pathlib import Path
from typing import Any

import matplotlib
from common.victims import minilm, texts
from matching.shared import Cells, begin, measured
from matplotlib import pyplot

from attacks import Lamp, Partial

UPDATES = 5
MIXED = (0, 2, 4)  # layers in which p is also mixed with o
COLUMNS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in "qkvofp"},
    "o+p": ("o", "p"),
    "layer": (),
}


def main() -> None:
    """Measure what is not there yet, then draw."""
    options, cells = begin("matching_partial", "a single layer or matrix still leaks")
    who = minilm(options.layers)
    pool = texts(who, "cola")
    few: dict[str, Any] = {"steps": options.steps, "starts": 50}
    plans: dict[str, Lamp] = {"all": Lamp(**few), "encoder": Partial(**few)}
    plans |= {
        f"{layer} {name}": Partial(layers=(layer,), modules=modules, **few)
        for layer in range(options.layers)
        for name, modules in COLUMNS.items()
        if name != "o+p" or layer in MIXED
    }
    for count in range(1, UPDATES + 1):  # a stopped run has a whole map
        for name, attack in plans.items():
            settings = {"layers": options.layers, "attack": repr(attack)}
            cells.fill(name, settings, count, functools.partial(measured, who, pool, attack))
    draw(cells, options.layers, options.out)


def draw(cells: Cells, layers: int, path: Path) -> None:
    """Write the heat map of ROUGE-1 beside the results; grey where nothing was measured."""
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = path.stem
    table = [[value(cells, f"{layer} {name}") for name in COLUMNS] for layer in range(layers)]
    figure, axes = pyplot.subplots(figsize=(7.0, 4.6), layout="constrained")
    shades = matplotlib.colormaps["Blues"].with_extremes(bad="#bbbbbb")
    image = axes.imshow(table, cmap=shades, vmin=0, vmax=100, aspect="auto")
    for row, line in enumerate(table):
        for column, one in enumerate(line):
            if one == one:  # NaN is not
                ink = "white" if one > 60 else "black"
                axes.text(column, row, f"{one:.0f}", ha="center", va="center", color=ink)
    axes.set_xticks(range(len(COLUMNS)), list(COLUMNS))
    axes.set_yticks(range(layers), [f"layer {layer}" for layer in range(layers)])
    axes.set_title(f"LAMP on one part of the gradient; all of it: {value(cells, 'all'):.0f}")
    figure.colorbar(image, label="ROUGE-1")
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=120)


def value(cells: Cells, name: str) -> float:
    """Return a cell's mean ROUGE-1, NaN where it was not measured."""
    found = cells.cells.get(name, {}).get("summary")
    return math.nan if found is None else float(found["rouge1"]["mean"])


if __name__ == "__main__":
    main()
