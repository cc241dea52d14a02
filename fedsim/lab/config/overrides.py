"""A config's tables: a TOML file, and ``key=value`` words on top of it."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim.errors import BadInput, one_line, reading
from fedsim.lab.config.checking import check
from fedsim.lab.config.schema import PLUGINS, Config, tables

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
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except FileNotFoundError:
        raise BadInput(f"config {str(path)!r} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"config {str(path)!r} cannot be read: {error}") from error
    with reading(f"config {str(path)!r} is not valid TOML"):
        tree = tomllib.loads(text)
    return tree


def parse(override: str) -> tuple[list[str], Any]:
    """Return the key's parts and the value of ``key=value``; a bare word is a string."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"wanted key=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise BadInput(f"{key.strip()}: {one_line(error)}") from error
    return key.strip().split("."), value


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
            raise BadInput(f"{'.'.join(parts)}: {whole} is not a table; {instead}")
    at[parts[-1]] = value


def _instead(key: str, held: object, rest: Sequence[str], value: object) -> str:
    """Say how a plugin that is named, not a table, gets a parameter."""
    (first, *_) = [*tables(held), None]
    if key not in PLUGINS or not isinstance(first, dict):
        return "replace it as a whole"
    inner = f'name="{first.get("name")}", {".".join(rest)}={json.dumps(value, default=str)}'
    return f"write all of it in one word: '{key}={{{inner}}}'"
