"""The grid of a sweep: ``key=v1,v2`` words to cells, each a whole config that was checked.

A parameter of a plugin (``defense.fraction=0.1,0.01``) is set on every plugin of the cell that has
it; where none has it the cell is as if the word were not there, and equal cells are one cell. So
``defense=none,topk defense.fraction=0.1,0.01`` is three cells.
"""

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from attacks import attack_table
from defenses import defense_table
from fedsim.errors import BadInput, unknown
from fedsim.lab.config import AttackSection, Config, DefenseSection, assign, check, parse, tables
from fedsim.lab.config.labels import label
from fedsim.lab.config.paths import absolute
from fedsim.lab.config.recipes import Recipe
from fedsim.lab.config.schema import PLUGINS

PAIRS = {"[": "]", "{": "}"}
LABEL = 60  # characters of a cell's name before its hash


@dataclass(frozen=True)
class Axis:
    """One key of the grid and the values it takes, in the order they were given."""

    key: str
    values: tuple[Any, ...]

    @property
    def parts(self) -> list[str]:
        """The key, split at its dots."""
        return self.key.split(".")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the grid."""

    name: str  # readable, and with a hash of the config: also its directory
    settings: Mapping[str, Any]  # swept key -> value; None where the cell's plugins have no such
    config: Config
    training: str  # equal for cells that differ in their attacks only, so train alike


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A whole sweep: what was asked for, and the cells that it comes to."""

    base: Mapping[str, Any]  # the config's tables before the grid
    words: Sequence[str]
    axes: Mapping[str, Sequence[Any]]  # swept key -> its values, at least two
    cells: Sequence[Cell]
    quick: bool  # without controls
    recipe: Recipe | None = None  # whose table this is, if it is one
    secret: str | None = None  # what stands for the one that it was given, and does not tell it
    commands: Sequence[str] = ()  # that began it, and that made it grow
    grows: bool = False  # more cells than were begun


def make_plan(
    base: Mapping[str, Any], words: Sequence[str], *, quick: bool, recipe: Recipe | None = None
) -> SweepPlan:
    """Return the sweep of ``base`` over the grid that ``key=v1,v2`` words span.

    Raises:
        BadInput: a word, or a cell's config, is wrong.
    """
    grid = axes(words)
    return SweepPlan(
        base=base,
        words=list(words),
        axes={axis.key: axis.values for axis in grid if len(axis.values) > 1},
        cells=cells(base, grid),
        quick=quick,
        recipe=recipe,
    )


def axes(words: Sequence[str]) -> list[Axis]:
    """Return the axes that ``key=v1,v2`` words name.

    Raises:
        BadInput: a word without values, an empty value, a value or a key twice.
    """
    axes_by_key: dict[str, Axis] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not equals or not key:
            raise BadInput(f"wanted key=v1,v2, got {word!r}")
        if key in axes_by_key:
            raise BadInput(f"{key}: given twice; name all its values at once: {key}=v1,v2")
        values = [parse(f"{key}={part}")[1] for part in _split(key, text)]
        for place, value in enumerate(values):
            if any(same(value, earlier) for earlier in values[:place]):
                raise BadInput(f"{key}: the value {label(value)} is there twice")
        axes_by_key[key] = Axis(key, tuple(values))
    if not axes_by_key:
        raise BadInput("nothing to sweep over; wanted key=v1,v2, e.g. training.local_epochs=1,5")
    return list(axes_by_key.values())


def cells(base: Mapping[str, Any], grid: Sequence[Axis]) -> list[Cell]:
    """Return the cells of ``grid`` over the config tables in ``base``, the last key fastest.

    Raises:
        BadInput: a cell whose config is wrong, or a plugin's parameter that no cell's plugin has.
    """
    swept = [axis.key for axis in grid if len(axis.values) > 1]
    by_name: dict[str, Cell] = {}
    used: set[str] = set()
    for values in itertools.product(*(axis.values for axis in grid)):
        point = dict(zip((axis.key for axis in grid), values, strict=True))
        try:
            config, applied = _configured(base, point)
        except BadInput as error:
            raise BadInput(f"{error}{_where(point, swept)}") from error
        used |= applied
        settings = {key: point[key] if key in applied else None for key in swept}
        cell = _cell(config, settings)
        by_name.setdefault(cell.name, cell)
    for axis in grid:
        if axis.key not in used:
            raise _nobody_has(axis, base, grid)
    return list(by_name.values())


def same(value: object, other: object) -> bool:
    """Return whether two values of a key are one, as TOML has them."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)  # True == 1


def column(key: str) -> str:
    """Return the name of a swept key's column; in ``attack`` stands who read the row."""
    return "attack_setting" if key == "attack" else key


def _split(key: str, text: str) -> list[str]:
    """Split ``text`` at the commas that are in no bracket, brace or string."""
    parts, open_, quote, start = [], [], "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote and text[place - 1] != "\\" else quote
        elif character in "\"'":
            quote = character
        elif character in PAIRS:
            open_.append(PAIRS[character])
        elif open_ and character == open_[-1]:
            open_.pop()
        elif character == "," and not open_:
            parts.append(text[start:place])
            start = place + 1
    if open_ or quote:
        raise BadInput(f"{key}: {quote or open_[-1]} is missing in {text!r}")
    parts = [part.strip() for part in [*parts, text[start:]]]
    if "" in parts:
        raise BadInput(f"{key}: wanted values between commas, got {text!r}")
    return parts


def _configured(base: Mapping[str, Any], point: Mapping[str, Any]) -> tuple[Config, set[str]]:
    """Return the config at ``point`` and the keys that had an effect."""
    tree = copy.deepcopy(dict(base))
    applied = set()
    for key in sorted(point, key=lambda key: key.count(".")):  # a table before what is in it
        head, *rest = key.split(".")
        if head in PLUGINS and rest:
            if _set_parameter(tree, head, rest, point[key]):
                applied.add(key)
        else:
            assign(tree, key.split("."), copy.deepcopy(point[key]))
            applied.add(key)
    return absolute(check(tree)), applied


def _set_parameter(tree: dict[str, Any], head: str, rest: Sequence[str], value: object) -> bool:
    """Set a parameter on every plugin of the tree that has it; return whether there is one."""
    sections = tables(tree.get(head, []))
    tree[head] = sections
    having = [section for section in sections if rest[0] in _parameters(head, section)]
    for section in having:
        assign(section, rest, copy.deepcopy(value))
    return bool(having)


def _parameters(head: str, section: object) -> set[str]:
    """Return what may stand in a plugin's table; nothing where the config's check will complain."""
    known = attack_table() if head == "attack" else defense_table()
    kind = known.get(section.get("name", "")) if isinstance(section, dict) else None
    if kind is None:
        return set()
    keys = AttackSection if head == "attack" else DefenseSection
    return {field.name for field in fields(kind) if field.init} | set(keys.model_fields)


def _cell(config: Config, settings: Mapping[str, Any]) -> Cell:
    whole = config.as_toml()
    training = {k: v for k, v in whole.items() if k not in ("attack", "name", "tracker")}
    text = ",".join(
        f"{k.rpartition('.')[2]}={label(v)}" for k, v in settings.items() if v is not None
    )
    text = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", text)[:LABEL] or "cell"
    return Cell(
        name=f"{text}-{digest(whole)}",
        settings=dict(settings),
        config=config,
        training=digest(training) if config.federation.capture else digest(whole),
    )


def digest(value: object) -> str:
    """Return eight hexadecimal digits that stand for ``value``."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _where(point: Mapping[str, Any], swept: Sequence[str]) -> str:
    inner = ", ".join(f"{key}={label(point[key])}" for key in swept)
    return f" (in the cell {inner})" if inner else ""


def _nobody_has(axis: Axis, base: Mapping[str, Any], grid: Sequence[Axis]) -> BadInput:
    head, parameter = axis.parts[:2]
    known: set[str] = set()
    swept = [value for other in grid if other.key == head for value in other.values]
    for value in swept or [base.get(head, [])]:
        for section in tables(value):
            known |= _parameters(head, section)
    return BadInput(f"no {head} of this sweep has it: {unknown('parameter', parameter, known)}")
