"""How a config's keys and values are called where there is little room: tables, plots, lines."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any


def label(value: object) -> str:
    """Return ``value`` in a few words: ``topk(fraction=0.1)`` for a plugin's table."""
    if isinstance(value, dict):
        inner = ", ".join(f"{k}={label(v)}" for k, v in value.items() if k != "name")
        name = str(value.get("name", ""))
        return f"{name}({inner})" if inner and name else name or f"{{{inner}}}"
    if isinstance(value, list):
        return "+".join(map(label, value)) if value else "[]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "-"}[value]
    if isinstance(value, float):  # short where that is still this number and no other
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the config's keys, dotted, and their values as text."""
    for key, value in tree.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {str(place): item for place, item in enumerate(value)}
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def short_names(keys: Collection[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Return the last part of each key, or the whole key where that is another's or ``taken``."""
    last = {key: key.rpartition(".")[2] for key in keys}
    used = Counter([*last.values(), *taken])
    return {key: short if used[short] == 1 else key for key, short in last.items()}
