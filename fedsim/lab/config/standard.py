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


def tables(value: object) -> list[Any]:
    """A bare name, a table, or a list of either: always a list of tables."""
    rows = value if isinstance(value, list) else [value]
    return [{"name": row} if isinstance(row, str) else row for row in rows]


def expanded(value: object) -> list[Any]:
    """The same of attacks, with those of the set in its place; what stands beside its name
    (``rounds``, ``clients``, ...) is of each of them."""
    found = list[Any]()
    for row in tables(value):
        if not isinstance(row, Mapping) or row.get("name") != NAME:
            found.append(row)
            continue
        beside = {key: value for key, value in row.items() if key != "name"}
        found += [{**KNOWN, **table, **beside} for table in ATTACKS]
    return found
