"""A sweep as one table: a row for each (cell, attack, round, client, sample)."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from fedsim.errors import BadInput
from fedsim.files import write_atomically
from fedsim.lab.config.labels import label
from fedsim.lab.scoring.again import samples_of_run
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.sweep import CellRecord, SweepRecord
from fedsim.lab.sweep.directory import SweepDirectory
from fedsim.lab.sweep.grid import column
from fedsim.vault.reader import VaultReader

TEXT = ("settings", "knowledge")  # tables, as JSON


def write_table(directory: SweepDirectory, sweep: SweepRecord) -> pd.DataFrame:
    """Write ``table.parquet`` from what the cells that have ended left behind; return it.

    Columns: ``cell``; the swept keys, ``seed`` among them, ``attack`` as ``attack_setting``;
    ``error`` of a cell that failed, which has this one row; ``utility_metric``,
    ``utility_before``, ``utility_after`` of the cell and ``utility`` after the row's round;
    ``epsilon``, ``delta``; ``bytes_up``: what that client's update took in that round, as its
    defense encodes it (summary.json's is their mean);
    ``cell_seconds``; then those of samples.jsonl (``fedsim.lab.store.samples``), where ``error`` is
    ``attack_error``, and ``knowledge``, ``settings`` are JSON.
    """
    rows: list[dict[str, Any]] = []
    for cell in sweep.cells:
        rows += _cell_rows(RunDirectory(directory.cell(cell.name)), cell, list(sweep.axes))
    frame = pd.DataFrame(rows)
    for key in sweep.axes:
        frame[column(key)] = _column([row.get(column(key)) for row in rows])
    write_atomically(directory.table, partial(frame.to_parquet, index=False))
    return frame


def read_table(directory: SweepDirectory) -> pd.DataFrame:
    """Return the table of a sweep.

    Raises:
        BadInput: there is none yet.
    """
    if not directory.table.exists():
        raise BadInput(f"{str(directory.root)!r} has no table yet; run the sweep first")
    return pd.read_parquet(directory.table)


def _cell_rows(run: RunDirectory, cell: CellRecord, keys: Sequence[str]) -> list[dict[str, Any]]:
    if cell.status not in ("done", "failed"):
        return []
    head: dict[str, Any] = {"cell": cell.name, "seed": cell.config.get("seed", 0)}
    head |= {column(key): cell.settings[key] for key in keys}
    head |= {"error": cell.error, "cell_seconds": cell.seconds}
    if cell.status == "failed":
        return [head]
    summary = run.summary()
    utility, guarantee = summary.utility, summary.guarantee or {}
    for name in ("metric", "before", "after"):
        head[f"utility_{name}"] = getattr(utility, name) if utility else None
    head |= {name: guarantee.get(name) for name in ("epsilon", "delta")}
    per_round = dict(enumerate(utility.per_round if utility else (), start=1))
    vault = VaultReader(run.vault)
    measured: dict[tuple[int, int], dict[str, Any]] = {}
    rows = []
    for sample in samples_of_run(run, summary):
        at = sample.round, sample.client
        if at not in measured:
            measured[at] = vault.measured(*at) or {}
        row = sample.as_row()
        row["attack_error"] = row.pop("error")
        row |= {name: json.dumps(row[name], sort_keys=True) for name in TEXT}
        mine = {"utility": per_round.get(at[0]), "bytes_up": measured[at].get("bytes")}
        rows.append({**head, **mine, **row})
    return rows or [head]


def _column(values: Sequence[Any]) -> list[Any]:
    """Return values of one kind: as they are where they agree, all numbers as float, or labels."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) == 2:
        return [None if value is None else float(value) for value in values]
    if len(kinds) <= 1 and not kinds & {dict, list}:
        return list(values)
    return [None if value is None else label(value) for value in values]
