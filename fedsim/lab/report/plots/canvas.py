"""From a drawing function to inline SVG for the page, and to SVG and PNG files beside it."""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fedsim.files import write_atomically, write_text
from fedsim.lab.report.plots.theme import LIGHT, PLACEHOLDERS

WIDE, NARROW = 700, 336  # CSS pixels: a desk's screen, a telephone's

Colours = Mapping[str, str]
Draw = Callable[[int, Colours], Figure]
STYLE: Any = {
    "font.family": ["sans-serif"],
    "font.size": 12,
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One plot: how to draw it, and what it says in words.

    Attributes:
        name: of its files.
        title: above it.
        alt: what a reader who cannot see it is told.
        caption: below it, how to read it.
        draw: takes a width in CSS pixels and the colours, returns the figure, 72 dots an inch.
    """

    name: str
    title: str
    alt: str
    caption: str
    draw: Draw

    def inline(self, width: int) -> Markup:
        """Return the plot as an SVG element in the page's colours."""
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{self.name}-{width}"}):
            text = _svg(self.draw(width, PLACEHOLDERS))
        text = re.sub(r"^.*?(?=<svg)", "", text, flags=re.DOTALL)
        text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
        text = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", text)  # figure_1 is in each of them
        text = re.sub(r'font: ([\d.]+)px [^;"]*', r"font: \1px var(--sans)", text)
        text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
        for name, colour in PLACEHOLDERS.items():
            text = text.replace(colour, f"var(--{name})")
        head = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', text)
        assert head is not None
        style = f'<svg role="img" aria-label="{Markup.escape(self.alt)}" '
        text = re.sub(r"^<svg [^>]*?(?=viewBox)", lambda _: style, text)
        text = text.replace(">", f' style="max-width:{head.group(1)}px">', 1)
        return Markup(text)  # matplotlib escaped the names in it

    def width(self) -> float:
        """Return how wide it is where there is room, in CSS pixels."""
        return float(self.draw(WIDE, LIGHT).get_figwidth()) * 72

    def write(self, folder: Path) -> list[Path]:
        """Write the plot as ``<name>.svg`` and ``<name>.png``; return the two paths."""
        paths = [folder / f"{file_name(self.name)}.{kind}" for kind in ("svg", "png")]
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": self.name}):
            figure = self.draw(WIDE, LIGHT)
            figure.set_facecolor(LIGHT["ground"])
            text = _svg(figure)
            write_text(paths[0], text)
            FigureCanvasAgg(figure)
            write_atomically(paths[1], lambda draft: figure.savefig(draft, format="png", dpi=144))
        return paths


def _svg(figure: Figure) -> str:
    FigureCanvasSVG(figure)
    out = io.StringIO()
    figure.savefig(out, format="svg", dpi=72, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def new_figure(width: int, height: float, colours: Colours) -> Figure:
    """Return an empty figure of so many CSS pixels, on no ground."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    figure.set_facecolor("none")
    return figure


def cut(text: str, most: int = 18) -> str:
    """Return ``text``, its end left out where it is long: a label must leave room for its plot."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def file_name(name: str) -> str:
    """Return ``name`` as a file's: a plugin may be called what it likes."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "_", name)
