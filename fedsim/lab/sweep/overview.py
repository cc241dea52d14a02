"""A sweep and what its cells' summaries say, in one dictionary: ``fedsim sweep --json``."""

from collections.abc import Mapping
from typing import Any

from fedsim.files import read_json
from fedsim.lab.sweep.directory import SweepDirectory


def overview(directory: SweepDirectory, sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Return what sweep.json says, and of each cell what its summary says."""
    rows, recipe = [], directory.recipe()
    for cell in sweep["cells"]:
        beside = recipe.beside(cell["config"]) if recipe else None
        row = {key: value for key, value in cell.items() if key not in ("config", "training")}
        done = cell["status"] == "done"
        summary = read_json(directory.cell(cell["name"]) / "summary.json") if done else {}
        row["utility"] = summary.get("utility")
        row |= {key: summary.get(key, {}) for key in ("leakage", "verdicts")}
        row["paper"] = beside.model_dump(exclude={"settings"}) if beside else None
        rows.append(row)
    head = {key: sweep[key] for key in ("schema", "name", "words", "quick", "axes", "seeds")}
    return {**head, "directory": str(directory.root), "table": str(directory.table), "cells": rows}
