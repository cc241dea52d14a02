"""A sweep's directory: what it is, how far it is, its table.

``sweep.json`` says what the cells are and how each of them ended; ``cells/<name>/`` is an ordinary
run directory each, with how it ended in ``cell.json``; ``table.parquet`` has a row for each
(cell, attack, round, client, sample).
"""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import BadInput, RunFailed
from fedsim.files import make_directory, read_json, write_json
from fedsim.lab.config import check
from fedsim.lab.config.recipes import FILE, Recipe, read_recipe
from fedsim.lab.store.summary import BegunSweep, read_checked
from fedsim.lab.sweep.cells import how_it_ended
from fedsim.lab.sweep.grid import Cell, Plan, digest

SCHEMA = 1
PAUSE = 2.0  # seconds between writes of sweep.json


@dataclass(frozen=True)
class SweepDirectory:
    """The files of one sweep."""

    root: Path

    @classmethod
    def default(cls, plan: Plan) -> "SweepDirectory":
        """Return ``runs/sweep-<name>-<hash>``: the same cells, the same directory."""
        what = digest([plan.quick, *(cell.name for cell in plan.cells)])
        return cls(Path("runs") / f"sweep-{plan.cells[0].config.name}-{what}")

    @property
    def table(self) -> Path:
        """All samples of all cells."""
        return self.root / "table.parquet"

    def cell(self, name: str) -> Path:
        """Return a cell's run directory."""
        return self.root / "cells" / name

    def read(self) -> dict[str, Any]:
        """Return what sweep.json says.

        Raises:
            BadInput: there is no sweep, one of another version, or a broken file.
        """
        path = self.root / "sweep.json"
        if not path.exists():
            raise BadInput(f"{str(self.root)!r} holds no sweep (no sweep.json)")
        read_checked(path, BegunSweep)
        found: dict[str, Any] = read_json(path)
        return found

    def plan(self) -> Plan:
        """Return the sweep that was begun here."""
        found = self.read()
        cells = [
            Cell(
                name=one["name"],
                settings=one["settings"],
                config=check(one["config"]),
                training=one["training"],
            )
            for one in found["cells"]
        ]
        return Plan(
            base=found["base"],
            words=found["words"],
            axes=found["axes"],
            cells=cells,
            quick=found["quick"],
            recipe=self.recipe(),
        )

    def recipe(self) -> Recipe | None:
        """Return the paper's figures, if this sweep is a recipe's."""
        return read_recipe(self.root / FILE)

    def claim(self, plan: Plan) -> None:
        """Make sure that what is here is this sweep, or nothing.

        Raises:
            BadInput: a file, a run or another sweep is here.
        """
        what = f"--out: {str(self.root)!r}"
        if self.root.exists() and not self.root.is_dir():
            raise BadInput(f"{what} is not a directory")
        if (self.root / "config.toml").exists():
            raise BadInput(f"{what} holds a run; choose another directory")
        if not (self.root / "sweep.json").exists():
            return
        found = self.read()
        if [one["name"] for one in found["cells"]] != [cell.name for cell in plan.cells]:
            grid = " ".join(found["words"])
            raise BadInput(f"{what} holds another sweep ({grid}); choose another directory")
        if found["quick"] != plan.quick:
            without = "without" if plan.quick else "with"
            raise BadInput(f"{what} holds this sweep {without} --quick; choose another directory")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from working on this sweep at the same time.

        Raises:
            BadInput: another process does.
        """
        make_directory(self.root, wanted=self.root / "sweep.json")
        try:
            file = (self.root / ".lock").open("w")
        except OSError as error:
            raise RunFailed(f"could not write {self.root / '.lock'}: {error}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(
                    f"--out: another process works on the sweep in {str(self.root)!r}"
                ) from None
            yield


class Ledger:
    """How each cell ended, kept in sweep.json; the cells' own cell.json are the truth."""

    def __init__(self, directory: SweepDirectory, plan: Plan) -> None:
        self._directory = directory
        self._written = 0.0
        self.rows: dict[str, dict[str, Any]] = {}
        for cell in plan.cells:
            record = how_it_ended(directory.cell(cell.name))
            self.rows[cell.name] = {
                "name": cell.name,
                "settings": dict(cell.settings),
                "training": cell.training,
                **(record or {"status": "waiting", "error": None, "seconds": 0.0, "working": 0.0}),
                "config": cell.config.as_toml(),
            }
        self._head = {
            "schema": SCHEMA,
            "name": plan.cells[0].config.name,
            "words": list(plan.words),
            "quick": plan.quick,
            "axes": {key: list(values) for key, values in plan.axes.items()},
            "seeds": sorted({cell.config.seed for cell in plan.cells}),
            "base": dict(plan.base),
        }
        if plan.recipe is not None:
            write_json(directory.root / FILE, plan.recipe.model_dump(by_alias=True))
        self.save()

    def note(self, name: str, record: dict[str, Any]) -> None:
        """Note how a cell ended, or that it has begun."""
        self.rows[name] |= record
        if time.monotonic() - self._written > PAUSE:
            self.save()

    def save(self) -> None:
        """Write sweep.json."""
        write_json(self._directory.root / "sweep.json", self.as_dict())
        self._written = time.monotonic()

    def as_dict(self) -> dict[str, Any]:
        """Return what sweep.json holds."""
        return {**self._head, "cells": list(self.rows.values())}

    def count(self, status: str) -> int:
        """Return how many cells have that status."""
        return sum(row["status"] == status for row in self.rows.values())
