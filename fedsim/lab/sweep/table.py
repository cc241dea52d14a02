"""A sweep as one table: a row for each (cell, attack, round, client, sample)."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from fedsim.errors import BadInput
from fedsim.files import read_json, read_lines, write_atomically
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.sweep.cells import SAMPLES
from fedsim.lab.sweep.directory import SweepDirectory
from fedsim.lab.sweep.grid import column, label
from fedsim.vault.reader import VaultReader

TEXT = ("settings", "knowledge")  # tables, as JSON


def write_table(directory: SweepDirectory, sweep: Mapping[str, Any]) -> pd.DataFrame:
    """Write ``table.parquet`` from what the cells that have ended left behind; return it.

    Columns: ``cell``; the swept keys, ``seed`` among them, ``attack`` as ``attack_setting``;
    ``error`` of a cell that failed, which has this one row; ``utility_metric``,
    ``utility_before``, ``utility_after`` of the cell and ``utility`` after the row's round;
    ``epsilon``, ``delta``; ``bytes_up``: what that client's update took in that round, as its
    defense encodes it (summary.json's is their mean);
    ``cell_seconds``; then those of ``fedsim.lab.store.samples.sample_rows``, where ``error`` is
    ``attack_error``, and ``knowledge``, ``settings`` are JSON.
    """
    rows: list[dict[str, Any]] = []
    for cell in sweep["cells"]:
        rows += _cell_rows(directory.cell(cell["name"]), cell, list(sweep["axes"]))
    frame = pd.DataFrame(rows)
    for key in sweep["axes"]:
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


def _cell_rows(root: Path, cell: Mapping[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    if cell["status"] not in ("done", "failed"):
        return []
    head: dict[str, Any] = {"cell": cell["name"], "seed": cell["config"]["seed"]}
    head |= {column(key): cell["settings"][key] for key in keys}
    head |= {"error": cell["error"], "cell_seconds": cell["seconds"]}
    if cell["status"] == "failed":
        return [head]
    summary = read_json(root / "summary.json")
    utility = summary["utility"] or {}
    guarantee = summary.get("guarantee") or {}
    head |= {f"utility_{one}": utility.get(one) for one in ("metric", "before", "after")}
    head |= {one: guarantee.get(one) for one in ("epsilon", "delta")}
    per_round = dict(enumerate(utility.get("per_round", []), start=1))
    vault = VaultReader(RunDirectory(root).vault)
    measured: dict[tuple[int, int], dict[str, Any]] = {}
    rows = []
    for row in read_lines(root / SAMPLES):
        at = row["round"], row["client"]
        if at not in measured:
            measured[at] = vault.measured(*at) or {}
        row["attack_error"] = row.pop("error")
        row |= {one: json.dumps(row[one], sort_keys=True) for one in TEXT}
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
