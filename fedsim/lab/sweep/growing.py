"""A sweep that grows: more values of its keys, beside the cells that it has."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedsim.errors import BadInput, shown, unknown
from fedsim.lab.config import check, tables
from fedsim.lab.config.labels import flat
from fedsim.lab.config.schema import PLUGINS
from fedsim.lab.store.sweep import SweepRecord
from fedsim.lab.sweep.directory import SweepDirectory
from fedsim.lab.sweep.grid import Axis, Cell, SweepPlan, axes, cells, digest, same


def grown(directory: SweepDirectory, words: Sequence[str], *, quick: bool) -> SweepPlan:
    """Return the sweep in ``directory`` with more values of its keys; its cells are among the new.

    A key that was not swept had one value till now, which is then one of several.

    Args:
        directory: of a sweep that was begun.
        words: ``key=v1,v2``; values that are there already may be among them.
        quick: whether it is asked for without controls, which it must have been begun with.

    Raises:
        BadInput: a word is wrong, nothing tells what a key's value was, or the cells that are
            there would be others now.
    """
    begun = directory.read()
    there = {axis.key: axis for axis in axes(begun.words)}
    more = axes(words)
    grid = {**there, **{axis.key: _longer(axis, there, begun) for axis in more}}
    made = _as_they_were(cells(begun.base, list(grid.values())), begun)
    plan = replace(directory.plan(), quick=quick or begun.quick)
    if len(made) == len(begun.cells):
        return plan
    return replace(
        plan,
        words=[_word(axis) for axis in grid.values()],
        axes={key: axis.values for key, axis in grid.items() if len(axis.values) > 1},
        cells=made,
        grows=True,
    )


def _longer(more: Axis, there: Mapping[str, Axis], begun: SweepRecord) -> Axis:
    """Return the axis of a key with the values that it had, and those of ``more``."""
    old = there[more.key].values if more.key in there else (_value(more.key, there, begun),)
    alike = same if more.key not in PLUGINS else lambda a, b: tables(a) == tables(b)
    new = [value for value in more.values if not any(alike(value, one) for one in old)]
    return Axis(more.key, (*old, *new))


def _value(key: str, there: Mapping[str, Axis], begun: SweepRecord) -> Any:
    """Return the one value that a key had in all cells, as the config says or by default."""
    head, *rest = key.split(".")
    if head in PLUGINS and rest:
        raise BadInput(
            f"{key}: this sweep has the keys {', '.join(there)}; a plugin's parameter is added as "
            f"a value of its own, {head}={{name=..., {rest[0]}=...}}, or in another sweep"
        )
    whole = check(begun.base).as_toml()
    for tree in (begun.base, whole):
        value: Any = tree
        for part in (head, *rest):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return value
    raise BadInput(unknown("key", key, [name for name, _ in flat(whole)]))


def _as_they_were(made: Sequence[Cell], begun: SweepRecord) -> list[Cell]:
    """Return the cells, those that are there under the names that they have.

    Raises:
        BadInput: one that is there is not among them.
    """
    names = {digest(check(cell.config).as_toml()): cell.name for cell in begun.cells}
    found = [digest(cell.config.as_toml()) for cell in made]
    if lost := [name for what, name in names.items() if what not in found]:
        raise BadInput(
            f"the cell {lost[0]} would be another now, by a path or a default that changed since; "
            "give the command in the directory where the sweep was begun, or begin another"
        )
    return [
        replace(cell, name=names.get(what, cell.name))
        for cell, what in zip(made, found, strict=True)
    ]


def _word(axis: Axis) -> str:
    return f"{axis.key}={','.join(map(_toml, axis.values))}"


def _toml(value: Any) -> str:
    """Return a value as the command line takes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str | bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    raise BadInput(f"wanted a text, a number, a list or a table as value, got {shown(value)}")
