"""How keys and values of a config are called where there is little room: in tables and plots."""

from collections import Counter
from collections.abc import Collection


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


def short_names(keys: Collection[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Return the last part of each key, or the whole key where that is another's or ``taken``."""
    last = {key: key.rpartition(".")[2] for key in keys}
    used = Counter([*last.values(), *taken])
    return {key: short if used[short] == 1 else key for key, short in last.items()}
