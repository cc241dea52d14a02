"""``attack = "standard"``: an attack of each kind that an attacker can use for nothing.

Each is told of the defense in force, so that a run in which all of them find nothing and work has
the verdict ``no-leak`` (:mod:`fedsim.lab.scoring.earned`). LAMP is a short one: it takes most of
the time, and a longer one reads more.
"""

from collections.abc import Mapping
from typing import Any

NAME = "standard"
ATTACKS: tuple[Mapping[str, Any], ...] = (
    {"name": "dager"},
    {"name": "bag"},
    {"name": "lamp", "steps": 300, "starts": 50, "tries": 20},
)
KNOWN: Mapping[str, Any] = {"knowledge": {"defense": True}}


def expanded(rows: list[Any]) -> list[Any]:
    """Return an attack's tables with those of the set in its place; what stands beside its name
    (``rounds``, ``clients``, ...) is of each of them."""
    tables = list[Any]()
    for row in rows:
        if not isinstance(row, Mapping) or row.get("name") != NAME:
            tables.append(row)
            continue
        beside = {key: value for key, value in row.items() if key != "name"}
        tables += [{**KNOWN, **table, **beside} for table in ATTACKS]
    return tables
