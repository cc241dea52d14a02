"""A config's tables: a TOML file, and ``key=value`` words on top of it."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim import limits
from fedsim.errors import BadInput, MalformedFile, shown
from fedsim.files import read_text, too_deep
from fedsim.lab.config.checking import check
from fedsim.lab.config.schema import PLUGINS, Config
from fedsim.lab.config.standard import tables

QUICK_START = Path(__file__).with_name("quick_start.toml")


def load_config(path: Path | None, overrides: Sequence[str]) -> Config:
    """Return the config in ``path`` (None: the built-in quick start) with ``key=value`` overrides.

    Raises:
        BadInput: what is wrong with the file or a value, in one line.
    """
    tree = read_toml(path or QUICK_START)
    for override in overrides:
        apply(tree, override)
    return check(tree)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the TOML tables in ``path``; one clear line when it cannot be read."""
    try:
        text = read_text(path, most=limits.CONFIG_BYTES)
    except FileNotFoundError:
        raise BadInput(f"config {str(path)!r} does not exist") from None
    except MalformedFile as error:
        raise BadInput(
            f"config {str(path)!r} {str(error).removeprefix(str(path)).strip()}"
        ) from None
    try:
        return _tables(text)
    except ValueError as error:
        raise BadInput(f"config {str(path)!r} is not valid TOML: {error}") from error


def _tables(text: str) -> dict[str, Any]:
    """Return what TOML says.

    Raises:
        ValueError: it is none, nested too deeply, or has integers of more than 64 bits.
    """
    try:
        tree = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if too_deep(tree):
        raise ValueError("it is nested too deeply")
    _check_integers(tree, "")
    return tree


def _check_integers(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_integers(inner, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for inner in value:
            _check_integers(inner, key)
    elif isinstance(value, int) and abs(value) > limits.INTEGER:
        raise ValueError(f"{key}: an integer must have 64 bits")


def parse(override: str) -> tuple[list[str], Any]:
    """Return the key's parts and the value of ``key=value``; a bare word is a string."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"wanted key=value, got {shown(override)}")
    parts = key.strip().split(".")
    if len(parts) > limits.DEEPEST:
        raise BadInput(f"wanted a key of at most {limits.DEEPEST} parts, got {len(parts)}")
    try:
        value = _tables(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except ValueError as error:
        raise BadInput(f"{key.strip()[:200]}: {str(error).removeprefix('value: ')}") from None
    return parts, value


def apply(tree: dict[str, Any], override: str) -> None:
    """Set what ``override`` (``a.b=value``) says in ``tree``."""
    assign(tree, *parse(override))


def assign(tree: dict[str, Any], parts: Sequence[str], value: object) -> None:
    """Set the key of ``parts`` in ``tree`` to ``value``, making the tables on the way."""
    at = tree
    for depth, part in enumerate(parts[:-1]):
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            whole = ".".join(parts[: depth + 1])
            instead = _instead(whole, at, parts[depth + 1 :], value)
            raise BadInput(f"{'.'.join(parts)[:200]}: {whole} is not a table; {instead}")
    at[parts[-1]] = value


def _instead(key: str, held: object, rest: Sequence[str], value: object) -> str:
    """Say how a plugin that is named, not a table, gets a parameter."""
    (first, *_) = [*tables(held), None]
    if key not in PLUGINS or not isinstance(first, dict):
        return "replace it as a whole"
    inner = f'name="{first.get("name")}", {".".join(rest)}={json.dumps(value, default=str)}'
    return f"write all of it in one word: '{key}={{{inner}}}'"
