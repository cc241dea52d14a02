"""Plugin tables: the project's own attacks and defenses, and those that others register.

Outsiders register a class under the entry-point group ``fedsim.attacks`` or ``fedsim.defenses``.
"""

import functools
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoints, entry_points
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fedsim.errors import BadInput, unknown

P = TypeVar("P")


def table(group: str, base: type[P], own: Mapping[str, type[P]]) -> dict[str, type[P]]:
    """Return ``own`` and the plugins registered under ``group``, by name.

    Raises:
        BadInput: an outsider's plugin has a name that is taken, cannot be imported, or is no
            ``base``.
    """
    known = dict(own)
    for point in _registered(group, tuple((folder, _changed(folder)) for folder in sys.path)):
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:  # whatever a stranger's module does when imported
            raise BadInput(f"plugin {point.name!r} ({point.value}): {error!r}") from error
        fits = isinstance(plugin, type) and issubclass(plugin, base) and is_dataclass(plugin)
        if not fits:
            raise BadInput(
                f"plugin {point.name!r} ({point.value}) must be a dataclass that derives from "
                f"{base.__name__}"
            )
        if point.name in known:
            raise BadInput(f"plugin {point.name!r} ({point.value}): that name is taken")
        known[point.name] = plugin
    return known


@functools.lru_cache(maxsize=8)  # it reads a file of every package there is
def _registered(group: str, path: tuple[tuple[str, int], ...]) -> EntryPoints:
    """Return what packages register under ``group``; ``path`` is sys.path, and when it changed."""
    return entry_points(group=group)


def _changed(folder: str) -> int:
    """Return when something was last installed in ``folder``, in ns; 0: there is no such thing."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def make(what: str, name: str, known: Mapping[str, type[P]], parameters: Mapping[str, Any]) -> P:
    """Return the plugin called ``name`` with ``parameters``, checked against its fields.

    Raises:
        BadInput: an unknown name, an unknown parameter, a wrong type or a value out of range.
    """
    if name not in known:
        raise BadInput(unknown(what, name, known))
    kind = known[name]
    names = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    for parameter in parameters:
        if parameter not in names:
            raise BadInput(f"{what} {name}: {unknown('parameter', parameter, names)}")
    adapter: TypeAdapter[P] = TypeAdapter(kind)
    try:
        # As JSON, so that a list is a tuple, yet neither true nor "1" is a number.
        return adapter.validate_json(json.dumps(dict(parameters), default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        got = f", got {first['input']!r}" if place else ""
        raise BadInput(f"{what} {name}: {f'{place}: ' if place else ''}{reason}{got}") from error
