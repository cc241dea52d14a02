"""A sweep and what its cells' summaries say, in one dictionary: ``fedsim sweep --json``."""

from typing import Any

from fedsim.lab.store.summary import read_summary
from fedsim.lab.store.sweep import SweepRecord
from fedsim.lab.sweep.directory import SweepDirectory


def overview(directory: SweepDirectory, sweep: SweepRecord) -> dict[str, Any]:
    """Return the sweep, its cells with utility, leakage, verdicts and the paper's figures."""
    rows, recipe = [], directory.recipe()
    for cell in sweep.cells:
        beside = recipe.beside(cell.config) if recipe else None
        row = {k: v for k, v in cell.as_dict().items() if k not in ("config", "training")}
        done = cell.status == "done"
        summary = read_summary(directory.cell(cell.name)).as_dict() if done else {}
        row["utility"] = summary.get("utility")
        row |= {key: summary.get(key, {}) for key in ("leakage", "verdicts")}
        row["paper"] = beside.model_dump(exclude={"settings"}) if beside else None
        rows.append(row)
    head = {k: v for k, v in sweep.as_dict().items() if k not in ("base", "cells")}
    return {**head, "directory": str(directory.root), "table": str(directory.table), "cells": rows}
