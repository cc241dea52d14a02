"""A comparison on the terminal: one table a run, a row for each figure."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedsim.printing import printable


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """Print how each run differs from the reference."""
    console = Console(file=sys.stdout, highlight=False)
    said = f"Reference: {comparison['reference']} ({comparison['reference_why']})"
    console.print(escape(printable(said)), soft_wrap=True)
    for run in comparison["runs"]:
        console.print()
        console.print(escape(printable(f"Against it: {run['run']}")), soft_wrap=True)
        for key, (before, after) in run["settings"].items():
            console.print(escape(printable(f"  {key}: {before} -> {after}")), soft_wrap=True)
        console.print(_table(run))
        for name, leakage in run["leakage"].items():
            console.print(escape(printable(f"{name}: {_basis(leakage)}")), soft_wrap=True)


def _table(run: Mapping[str, Any]) -> Table:
    columns = ("figure", "reference", "this run", "difference", "95 % interval")
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=True)
    for attack, leakage in run["leakage"].items():
        table.add_row(escape(printable(attack)), *run["verdicts"][attack], "", "")
        for name, figure in leakage["metrics"].items():
            between = figure["difference"]
            table.add_row(
                f"  {name}",
                _number(figure["reference"]),
                _number(figure["value"]),
                _number(between["mean"], sign=True),
                f"{_number(between['low'], sign=True)} to {_number(between['high'], sign=True)}",
            )
    utility = run["utility"]
    if utility:
        _plain(table, utility["metric"], utility)
    for key in ("bytes_up", "epsilon"):
        if run[key]:
            _plain(table, key.replace("_", " "), run[key])
    return table


def _plain(table: Table, name: str, figure: Mapping[str, Any]) -> None:
    figures = [_number(figure["reference"]), _number(figure["value"])]
    table.add_row(name, *figures, _number(figure["difference"], sign=True), "")


def _basis(leakage: Mapping[str, Any]) -> str:
    if leakage["paired"]:
        return f"{leakage['updates']} updates of the same texts in both runs, paired by sample."
    before, after = leakage["updates"]
    return f"no update of the same texts in both runs ({before} and {after} updates), not paired."


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
    return f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"
