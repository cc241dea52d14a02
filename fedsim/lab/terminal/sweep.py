"""What a person sees of a sweep: how far it is, how long it will take, then a row for each cell."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fedsim.lab.config.labels import label, short_names
from fedsim.lab.store.quoting import told
from fedsim.lab.store.sweep import CellEnd
from fedsim.lab.terminal.run import STYLES, Terminal
from fedsim.printing import printable

SHARES = ("exact_match", "precision", "token_accuracy")
SHOWN = 60  # cells; all of them are in the table


class SweepTerminal(Terminal):
    """Progress over the cells, on stderr; what a cell itself says is shown behind it."""

    def __init__(self, *, quiet: bool, total: int, redact: bool = False) -> None:
        super().__init__(quiet=quiet, redact=redact)
        self._total = total
        self.done = 0
        self._here = 0  # cells ended by this process
        self._started = 0.0  # when the first cell began: what comes before is paid once

    def say(self, line: str) -> None:
        """Show what a cell says in place: it is one of many."""
        self.step(line)

    def step(self, line: str) -> None:
        """Show what is being done now, behind how far the sweep is."""
        super().step(f"{self.done}/{self._total} cells{self._left()} · {line}")

    def announce(self, line: str) -> None:
        """Print a line of the sweep's own that stays."""
        super().say(line)

    def began(self, name: str) -> None:
        """Show that a cell has begun."""
        self._started = self._started or time.monotonic()
        self.step(name)

    def ended(self, name: str, end: CellEnd) -> None:
        """Say how a cell ended."""
        self.done += 1
        self._here += 1
        why = told(end.error, end.quotes, redact=self.redact)
        how = f"failed: {why}" if why else f"{end.seconds:.1f} s"
        super().say(f"{self.done}/{self._total} {name}: {how}{self._left()}")

    def _left(self) -> str:
        """Return how long what is left will take, from what the cells of this process took."""
        left = self._total - self.done
        if not self._here or not left:
            return ""
        seconds = (time.monotonic() - self._started) / self._here * left
        return f", about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """Return ``seconds`` for a person: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def print_sweep(sweep: Mapping[str, Any]) -> None:
    """Print one row for each cell and attack: what was swept, what was read, the verdict."""
    keys = list(sweep["axes"])
    console = Console(file=sys.stdout, highlight=False)
    columns = [name.replace("_", "\n") for name in short_names(keys).values()]  # narrow
    figures = ("attack", "exact", "prec", "tok.", "R-1", "paper's\nR-1", "utility", "s")
    table = Table(*columns, *figures, box=SIMPLE, padding=(0, 1, 0, 0), title="What leaks, by cell")
    table.add_column("verdict", no_wrap=True, min_width=len("inconclusive"))
    for cell in sweep["cells"][:SHOWN]:
        settings = [escape(printable(label(cell["settings"].get(key)))) for key in keys]
        for row in _rows(cell):
            table.add_row(*settings, *row)
    console.print(table)
    for cell in sweep["cells"]:
        if cell["error"]:
            line = f"{cell['name']} failed: {cell['error']}"
            console.print(escape(printable(line)), soft_wrap=True)
    if len(sweep["cells"]) > SHOWN:
        console.print(f"... and {len(sweep['cells']) - SHOWN} more cells in the table")
    console.print(f"Every sample: {sweep['table']}", soft_wrap=True)


def _rows(cell: Mapping[str, Any]) -> list[list[Any]]:
    seconds = f"{cell['seconds']:.1f}"
    if cell["error"]:
        return [["", "", "", "", "", "", "", seconds, Text("failed", "bold red")]]
    utility = cell["utility"]
    after = "-" if utility is None else f"{utility['after']:.3f}"
    paper = "-" if cell["paper"] is None else f"{cell['paper']['rouge1']:.1f}"
    rows: list[list[Any]] = []
    for name, leakage in cell["leakage"].items():
        verdict = cell["verdicts"][name]["verdict"]
        shares = [_mean(leakage, metric, 2) for metric in SHARES]
        rouge = _mean(leakage, "rouge1", 1)
        told = Text(verdict, STYLES[verdict])
        rows.append([escape(printable(name)), *shares, rouge, paper, after, seconds, told])
    return rows or [["-", "-", "-", "-", "-", paper, after, seconds, ""]]


def _mean(leakage: Mapping[str, Any], metric: str, digits: int) -> str:
    mean = leakage.get(f"{metric}_but_last", leakage.get(metric))
    return "-" if mean is None else f"{mean['mean']:.{digits}f}"
