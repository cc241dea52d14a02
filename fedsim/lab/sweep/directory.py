"""A sweep's directory: what it is, how far it is, its table.

``sweep.json`` says what the cells are and how each of them ended; ``cells/<name>/`` is an ordinary
run directory each, with how it ended in ``cell.json``; ``table.parquet`` has a row for each
(cell, attack, round, client, sample).
"""

import time
from dataclasses import dataclass
from pathlib import Path

from fedsim.errors import BadInput
from fedsim.files import write_json
from fedsim.lab.config import check
from fedsim.lab.config.recipes import Recipe, read_recipe
from fedsim.lab.store import layout
from fedsim.lab.store.sweep import (
    CellEnd,
    CellRecord,
    Status,
    SweepRecord,
    cell_root,
    read_end,
    read_sweep,
    write_sweep,
)
from fedsim.lab.sweep.grid import Cell, SweepPlan, digest

PAUSE = 2.0  # seconds between writes of sweep.json


@dataclass(frozen=True)
class SweepDirectory:
    """The files of one sweep."""

    root: Path

    @classmethod
    def default(cls, plan: SweepPlan) -> "SweepDirectory":
        """Return ``runs/sweep-<name>-<hash>``: the same cells, the same directory."""
        what = digest([plan.quick, *(cell.name for cell in plan.cells)])
        return cls(layout.RUNS / f"sweep-{plan.cells[0].config.name}-{what}")

    @property
    def table(self) -> Path:
        """All samples of all cells."""
        return self.root / layout.TABLE

    def cell(self, name: str) -> Path:
        """Return a cell's run directory."""
        return cell_root(self.root, name)

    def read(self) -> SweepRecord:
        """Return what sweep.json says.

        Raises:
            BadInput: there is no sweep, one of another version, or a broken file.
        """
        if not layout.is_sweep(self.root):
            raise BadInput(f"{str(self.root)!r} holds no sweep (no {layout.SWEEP})")
        return read_sweep(self.root)

    def plan(self) -> SweepPlan:
        """Return the sweep that was begun here."""
        begun = self.read()
        cells = [
            Cell(
                name=cell.name,
                settings=cell.settings,
                config=check(cell.config),
                training=cell.training,
            )
            for cell in begun.cells
        ]
        return SweepPlan(
            base=begun.base,
            words=begun.words,
            axes=begun.axes,
            cells=cells,
            quick=begun.quick,
            recipe=self.recipe(),
            secret=begun.secret,
            commands=begun.commands,
        )

    def recipe(self) -> Recipe | None:
        """Return the paper's figures, if this sweep is a recipe's."""
        return read_recipe(self.root / layout.PAPER)

    def claim(self, plan: SweepPlan) -> None:
        """Make sure that what is here is this sweep, or nothing.

        Raises:
            BadInput: a file, a run or another sweep is here, or this one with another secret.
        """
        what = f"--out: {str(self.root)!r}"
        if self.root.exists() and not self.root.is_dir():
            raise BadInput(f"{what} is not a directory")
        if layout.is_run(self.root):
            raise BadInput(f"{what} holds a run; choose another directory")
        if not layout.is_sweep(self.root):
            return
        begun = self.read()
        there, wanted = ([cell.name for cell in one.cells] for one in (begun, plan))
        if not (set(there) <= set(wanted) if plan.grows else there == wanted):
            grid = " ".join(begun.words)
            raise BadInput(f"{what} holds another sweep ({grid}); choose another directory")
        if begun.quick != plan.quick:
            without = "without" if plan.quick else "with"
            raise BadInput(f"{what} holds this sweep {without} --quick; choose another directory")
        if begun.secret != plan.secret and "secret" in begun.model_fields_set:
            with_ = "with another --secret" if begun.secret else "without --secret"
            if plan.secret is None:
                raise BadInput(f"{what} holds this sweep with --secret FILE; give that again")
            raise BadInput(f"{what} holds this sweep {with_}; choose another directory")


class Ledger:
    """How each cell ended, kept in sweep.json; the cells' own cell.json are the truth."""

    def __init__(self, directory: SweepDirectory, plan: SweepPlan) -> None:
        self._directory, self._plan = directory, plan
        self._written = 0.0
        self.cells = {cell.name: _record(directory, cell) for cell in plan.cells}
        if plan.recipe is not None:
            write_json(directory.root / layout.PAPER, plan.recipe.model_dump(by_alias=True))
        self.save()

    def note(self, name: str, end: CellEnd) -> None:
        """Note how a cell ended, or that it has begun."""
        self.cells[name] = self.cells[name].ended(end)
        if time.monotonic() - self._written > PAUSE:
            self.save()

    def save(self) -> None:
        """Write sweep.json."""
        write_sweep(self._directory.root, self.sweep())
        self._written = time.monotonic()

    def sweep(self) -> SweepRecord:
        """Return what sweep.json holds."""
        plan = self._plan
        return SweepRecord(
            schema=1,
            name=plan.cells[0].config.name,
            words=list(plan.words),
            quick=plan.quick,
            axes={key: list(values) for key, values in plan.axes.items()},
            seeds=sorted({cell.config.seed for cell in plan.cells}),
            base=dict(plan.base),
            secret=plan.secret,
            commands=list(plan.commands),
            cells=list(self.cells.values()),
        )

    def count(self, status: Status) -> int:
        """Return how many cells have that status."""
        return sum(cell.status == status for cell in self.cells.values())


def _record(directory: SweepDirectory, cell: Cell) -> CellRecord:
    """Return the record of a cell, with how it ended where it was run before."""
    waiting = CellRecord(
        name=cell.name,
        settings=dict(cell.settings),
        training=cell.training,
        status="waiting",
        error=None,
        seconds=0.0,
        working=0.0,
        config=cell.config.as_toml(),
    )
    end = read_end(directory.cell(cell.name))
    return waiting if end is None else waiting.ended(end)
