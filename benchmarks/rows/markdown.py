"""What the tables share: result files, and how a figure is written."""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Cell = Mapping[str, Any]


class Results:
    """The result files of a folder, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = functools.cache(self._load)

    def _load(self, name: str) -> Cell:
        path = self._folder / f"{name}.json"
        whole: Cell = json.loads(path.read_text(encoding="utf-8"))
        return whole

    def __contains__(self, name: str) -> bool:
        """Say whether ``<name>.json`` is there: a long measurement may still be to come."""
        return (self._folder / f"{name}.json").is_file()

    def __getitem__(self, name: str) -> Cell:
        """Return the whole of ``<name>.json``."""
        return self._read(name)

    def cells(self, name: str) -> dict[str, Any]:
        """Return the cells of ``<name>.json``."""
        return dict(self._read(name)["cells"])


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def span(values: Iterable[float], digits: int) -> str:
    """Return the smallest and the largest of ``values``; one figure where they read alike."""
    chosen = list(values)
    low, high = f"{min(chosen):.{digits}f}", f"{max(chosen):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def interval(metric: Cell, digits: int) -> str:
    """Return a mean with its 95 % interval."""
    low, high = (f"{metric[end]:.{digits}f}" for end in ("low", "high"))
    return f"{metric['mean']:.{digits}f} [{low}, {high}]"


def exact(cells: Iterable[Cell]) -> str:
    """Return how many sentences of all cells were read exactly."""
    chosen = list(cells)
    return f"{_sum(chosen, 'exact'):,} of {_sum(chosen, 'sentences'):,}"


def _sum(cells: Iterable[Cell], name: str) -> int:
    return sum(int(cell[name]) for cell in cells)
