"""What the command line says of the data of somebody else's project: ``data.<key>=value``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedsim import limits
from fedsim.errors import BadInput, unknown

KEYS = ("max_length", "num_examples")


@dataclass(frozen=True, kw_only=True)
class DataSaid:
    """What was said.

    Attributes:
        max_length: tokens that the project cuts a text to; None: as many as the model takes.
        num_examples: of each client in a round; 0: nobody knows; None: as the clients state.
    """

    max_length: int | None = None
    num_examples: int | None = None


def taken(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """Take the table called ``name`` off what was said.

    Raises:
        BadInput: it is no table.
    """
    table = tree.pop(name, {})
    if not isinstance(table, dict):
        raise BadInput(f"{name}: wanted {name}.<key>=value, got {table!r}")
    return table


def data_said(table: Mapping[str, Any]) -> DataSaid:
    """Return what a table says, checked.

    Raises:
        BadInput: an unknown key, or a value that is none of its.
    """
    if other := [key for key in table if key not in KEYS]:
        raise BadInput(unknown("key", f"data.{other[0]}", [f"data.{key}" for key in KEYS]))
    return DataSaid(
        max_length=_whole(table, "max_length", 2, limits.INTEGER),
        num_examples=_whole(table, "num_examples", 0, limits.EXAMPLES),
    )


def _whole(table: Mapping[str, Any], key: str, least: int, most: int) -> int | None:
    value = table.get(key)
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise BadInput(f"data.{key}: wanted an integer, {least} or more, got {value!r}")
    return value
