"""Plugin tables: the project's own attacks and defenses, and those that others register.

Outsiders register a class under the entry-point group ``fedsim.attacks`` or ``fedsim.defenses``.
"""

import functools
import json
import logging
import os
import sys
from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from fedsim.errors import BadInput, unknown
from fedsim.printing import printable

P = TypeVar("P")
logger = logging.getLogger("fedsim.plugins")


class Plugins(dict[str, type[P]]):
    """Plugins by name; those of others that cannot be used only by why (``broken``)."""

    def __init__(self, own: Mapping[str, type[P]]) -> None:
        super().__init__(own)
        self.broken: dict[str, str] = {}


def table(group: str, base: type[P], own: Mapping[str, type[P]]) -> Plugins[P]:
    """Return ``own`` and the plugins registered under ``group``, by name.

    An outsider's that cannot be imported, is no ``base`` or has a name that is taken is said once,
    in a warning: whoever asks for it gets to know why it is not there (:func:`make`).
    """
    known = Plugins(own)
    path = tuple((folder, _changed(folder)) for folder in sys.path)
    for point in _registered(group, path):
        what = f"plugin {point.name!r} ({point.value})"
        if point.name in own:
            _warn(f"{what}: that name is taken, by one of fedsim's own")
            continue
        plugin, why = _loaded(point, cast(Hashable, base), path)
        if point.name in (*known, *known.broken):
            known.pop(point.name, None)  # which of them is meant?
            plugin, why = None, ": that name is taken"
        if plugin is None:
            known.broken[point.name] = f"{what}{why}"
            _warn(known.broken[point.name])
        else:
            known[point.name] = plugin
    return known


@functools.lru_cache(maxsize=64)  # a broken import is tried anew each time
def _loaded(
    point: EntryPoint, base: Any, path: tuple[tuple[str, int], ...]
) -> tuple[type[Any] | None, str]:
    """Return the plugin, or None and why it cannot be used; ``path`` as in :func:`_registered`."""
    try:
        plugin = point.load()
    except (Exception, SystemExit) as error:  # anything may, while a stranger's is imported
        return None, f": {error!r}"
    if isinstance(plugin, type) and issubclass(plugin, base) and is_dataclass(plugin):
        return plugin, ""
    return None, f" must be a dataclass that derives from {base.__name__}"


@functools.lru_cache(maxsize=64)  # once
def _warn(line: str) -> None:
    logger.warning("%s; it is left out", printable(line))


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
        BadInput: an unknown name, a plugin that is broken, an unknown parameter, a wrong type or a
            value out of range.
    """
    if isinstance(known, Plugins) and name in known.broken:
        raise BadInput(known.broken[name])
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
