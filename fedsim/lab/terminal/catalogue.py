"""What there is to choose from: `fedsim list`."""

from dataclasses import MISSING, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from attacks import attack_table
from clients.named import NAMED
from defenses import defense_table
from fedsim.models import family, family_names, preset, preset_names


def catalogue(kind: str | None) -> dict[str, list[dict[str, Any]]]:
    """Return what there is, by kind: attacks, defenses, models, data; all of them for None."""
    everything = {
        "attacks": [_plugin(name, one) for name, one in sorted(attack_table().items())],
        "defenses": [_plugin(name, one) for name, one in sorted(defense_table().items())],
        "models": _models(),
        "data": _data(),
    }
    return everything if kind is None else {kind: everything[kind]}


def _plugin(name: str, kind: type) -> dict[str, Any]:
    parameters = {
        one.name: None if one.default is MISSING else one.default
        for one in fields(kind)
        if one.init
    }
    row = {"name": name, "about": _first_line(kind), "parameters": parameters}
    if hasattr(kind, "families"):
        row["families"] = list(kind.families or family_names())
    return row


def _models() -> list[dict[str, Any]]:
    rows = [
        {
            "name": f"builtin:{name}",
            "about": f"{preset(name).model_type}, random weights, no download",
        }
        for name in preset_names()
    ]
    for name in family_names():
        tasks = ", ".join(sorted(family(name).classes))
        rows.append({"name": f"any {name} model", "about": f"hub id or directory; tasks: {tasks}"})
    return rows


def _data() -> list[dict[str, Any]]:
    rows = [
        {"name": "builtin:clinic", "about": "invented messages to a clinic, with labels; offline"}
    ]
    for name, one in sorted(NAMED.items()):
        about = f"hub {one.hub[0]}, or data.path = a folder with {' and '.join(one.files)}"
        rows.append({"name": name, "about": about})
    rows.append({"name": "<file>", "about": "a csv, tsv, jsonl, parquet or txt file of yours"})
    rows.append({"name": "<hub id>", "about": "any data set of the hub"})
    return rows


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0] if kind.__doc__ else ""


def print_catalogue(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print one table a kind."""
    console = Console(highlight=False)
    for kind, rows in found.items():
        table = Table("name", "about", title=kind, title_justify="left")
        for row in rows:
            parameters = ", ".join(f"{k}={v!r}" for k, v in row.get("parameters", {}).items())
            about = row["about"] + (f"\n{parameters}" if parameters else "")
            table.add_row(row["name"], about)
        console.print(table)
