"""A sweep and what its cells' summaries say, in one dictionary: ``fedsim sweep --json``."""

from typing import Any

from fedsim.lab.store.quoting import told, without_quotes
from fedsim.lab.store.summary import read_summary
from fedsim.lab.store.sweep import SweepRecord
from fedsim.lab.sweep.directory import SweepDirectory


def overview(
    directory: SweepDirectory, sweep: SweepRecord, *, redact: bool = False
) -> dict[str, Any]:
    """Return the sweep, its cells with utility, leakage, verdicts and the paper's figures.

    ``redact``: without what may quote texts.
    """
    rows, recipe = [], directory.recipe()
    for cell in sweep.cells:
        beside = recipe.beside(cell.config) if recipe else None
        row = {k: v for k, v in cell.as_dict().items() if k not in ("config", "training")}
        row["error"] = told(cell.error, cell.quotes, redact=redact)
        summary = _summary(directory, cell.name, redact) if cell.status == "done" else {}
        row["utility"] = summary.get("utility")
        row |= {key: summary.get(key, {}) for key in ("leakage", "verdicts")}
        row["paper"] = beside.model_dump(exclude={"settings"}) if beside else None
        rows.append(row)
    head = {k: v for k, v in sweep.as_dict().items() if k not in ("base", "cells")}
    return {**head, "directory": str(directory.root), "table": str(directory.table), "cells": rows}


def _summary(directory: SweepDirectory, cell: str, redact: bool) -> dict[str, Any]:
    summary = read_summary(directory.cell(cell))
    return (without_quotes(summary) if redact else summary).as_dict()
