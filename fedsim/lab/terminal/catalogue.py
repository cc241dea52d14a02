"""What there is to choose from: `fedsim list`."""

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import CONFIG_MAPPING

from attacks import attack_table
from clients.formats import TEXTS
from clients.named import NAMED
from defenses import defense_table
from fedsim.errors import BadInput, unknown
from fedsim.headers import ATTACK, DEFENSE, NOT_SAID, first_line, header
from fedsim.models import family, family_names, preset, preset_names
from fedsim.printing import printable


def catalogue(kind: str | None, name: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return what there is, by kind: attacks, defenses, models, data; all of them for None.

    Args:
        kind: one of the four, or None.
        name: of the one thing of that kind that is asked for; None: all of them.

    Raises:
        BadInput: there is nothing of that name.
    """
    attacks, defenses = attack_table(), defense_table()
    everything = {
        "attacks": [_plugin(n, plugin, ATTACK) for n, plugin in sorted(attacks.items())],
        "defenses": [_plugin(n, plugin, DEFENSE) for n, plugin in sorted(defenses.items())],
        "models": _models(),
        "data": _data(),
    }
    if kind is None:
        return everything
    rows = {row["name"]: row for row in everything[kind]}
    if name is not None and name not in rows:
        broken = {"attacks": attacks.broken, "defenses": defenses.broken}.get(kind, {})
        raise BadInput(broken.get(name) or unknown(kind.removesuffix("s"), name, rows))
    return {kind: everything[kind] if name is None else [rows[name]]}


def _plugin(name: str, kind: type, keys: Sequence[str]) -> dict[str, Any]:
    parameters = {
        field.name: None if field.default is MISSING else field.default
        for field in fields(kind)
        if field.init
    }
    said = header(kind)
    row: dict[str, Any] = {"name": name, "about": first_line(kind), "parameters": parameters}
    row |= {key: said.get(key) for key in keys}
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
        if name not in CONFIG_MAPPING:  # one without weight files
            continue
        tasks = ", ".join(sorted(family(name).classes))
        rows.append({"name": f"any {name} model", "about": f"hub id or directory; tasks: {tasks}"})
    about = "hub id or directory; an encoder or a decoder that transformers has"
    rows.append({"name": "any other model", "about": f"{about}, read through its module graph"})
    return rows


def _data() -> list[dict[str, Any]]:
    rows = [
        {"name": "builtin:clinic", "about": "invented messages to a clinic, with labels; offline"}
    ]
    for name, data in sorted(NAMED.items()):
        about = f"hub {data.hub[0]}, or data.path = a folder with {' and '.join(data.files)}"
        rows.append({"name": name, "about": about})
    texts = ", ".join(kind.removeprefix(".") for kind in TEXTS)
    about = f"a {texts} (each also with .gz) or parquet file of yours"
    rows.append({"name": "<file>", "about": f"{about}: texts, instructions or conversations"})
    rows.append({"name": "<hub id>", "about": "any data set of the hub"})
    return rows


def print_catalogue(choices: dict[str, list[dict[str, Any]]]) -> None:
    """Print one table a kind; of a plugin that stands alone, all that its header says."""
    console = Console(highlight=False)
    for kind, rows in choices.items():
        table = Table("name", "about", title=kind, title_justify="left")
        for row in rows:
            table.add_row(
                escape(printable(row["name"])),
                escape("\n".join(map(printable, _about(row, whole=len(rows) == 1)))),
            )
        console.print(table)


def _about(row: dict[str, Any], *, whole: bool) -> list[str]:
    lines = [row["about"]]
    if "parameters" not in row:  # a model, or data
        return lines
    header_keys = [key for key in row if key in (*ATTACK, *DEFENSE)]
    for key in header_keys if whole else ("source",):
        lines.append(f"{key.capitalize()}: {row[key] or NOT_SAID}")
    if row["parameters"]:
        lines.append(", ".join(f"{name}={value!r}" for name, value in row["parameters"].items()))
    return lines
