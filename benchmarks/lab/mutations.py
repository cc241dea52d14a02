"""What may be wrong with a file: bytes, and what they say, changed by a seed."""

import json
import random
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import tomli_w

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 255, 2**31, 2**63, -(2**63), 10**30,
    0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), -float("inf"),
    "", "a", "1", "-", "..", "../../x", "x" * 5000, "\ud800", "\x00", "[/bold]", "=1+1", "nan",
    [], {}, [[]], [{}], [None], {"": None}, {"a": {"b": []}}, [1, "a"],
)  # fmt: skip
PIECES = (
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf",
    b"9" * 5000, b"1e999", b"-1", b"NaN", b"Infinity", b"[" * 3000, b'{"a":' * 3000, b"null",
    b"\\u", b"=", b"'" * 3, b"#", b"\xf0\x9f", b"[[", b"inf", b"1979-05-27", b"0x", b"._",
)  # fmt: skip


def mutations(data: bytes, kind: str, chance: random.Random) -> Iterator[bytes]:
    """Yield changed ``data`` without end; ``kind``: json, lines (of JSON), toml, or bytes."""
    while True:
        if kind == "bytes" or chance.random() < 0.4:
            yield of_bytes(data, chance)
            continue
        try:
            yield of_values(data, kind, chance)
        except (
            ValueError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ):  # not to be written so
            yield of_bytes(data, chance)


def of_bytes(data: bytes, chance: random.Random) -> bytes:
    """Return ``data`` with one to four changes to its bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(changed) + 1)
        to = min(len(changed), at + chance.choice((1, 1, 2, 5, 20, 200)))
        way = chance.randrange(6)
        if way == 0:
            changed[at:to] = bytes(chance.randrange(256) for _ in range(to - at))
        elif way == 1:
            del changed[at:to]
        elif way == 2:
            changed[at:at] = changed[at:to] * chance.choice((1, 3))
        elif way == 3:
            changed[at:at] = chance.choice(PIECES)
        elif way == 4:
            del changed[at:]
        elif at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def of_values(data: bytes, kind: str, chance: random.Random) -> bytes:
    """Return ``data`` with one to three changes to what it says."""
    if kind == "toml":
        return tomli_w.dumps(_changed(tomllib.loads(data.decode()), chance)).encode()
    if kind == "json":
        return _dumped(_changed(json.loads(data), chance))
    lines = [json.loads(line) for line in data.splitlines()]
    way = chance.randrange(5)
    at = chance.randrange(len(lines)) if lines else 0
    if not lines or way == 0:
        lines.insert(at, chance.choice(VALUES))
    elif way == 1:
        lines.insert(at, lines[chance.randrange(len(lines))])
    elif way == 2:
        del lines[at]
    else:
        lines[at] = _changed(lines[at], chance)
    return b"".join(_dumped(line) + b"\n" for line in lines)


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()  # NaN and Infinity as they are


def _changed(value: Any, chance: random.Random) -> Any:
    root = [json.loads(_dumped(value)) if not _dates(value) else value]
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(_places(root))
        holder, key = chance.choice(places)
        chance.choice(_WAYS)(holder, key, places, chance)
    return root[0] if root else None


def _dates(value: Any) -> bool:
    try:
        _dumped(value)
    except TypeError:
        return True
    return False


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (table or list, key) within ``value``."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


Place = tuple[Any, Any]
Way = Callable[[Any, Any, list[Place], random.Random], None]


def _replace(holder: Any, key: Any, places: list[Place], chance: random.Random) -> None:
    if key in holder if isinstance(holder, dict) else key < len(holder):
        holder[key] = json.loads(_dumped(chance.choice(VALUES)))


def _drop(holder: Any, key: Any, places: list[Place], chance: random.Random) -> None:
    if len(holder) > 1 and (key in holder if isinstance(holder, dict) else key < len(holder)):
        del holder[key]


def _rename(holder: Any, key: Any, places: list[Place], chance: random.Random) -> None:
    if isinstance(holder, dict) and key in holder:
        holder[chance.choice(("", "x", str(key) + "s", "schema", "name"))] = holder[key]


def _copy(holder: Any, key: Any, places: list[Place], chance: random.Random) -> None:
    """Put here what stands elsewhere."""
    other, at = chance.choice(places)
    if key in holder if isinstance(holder, dict) else key < len(holder):
        if at in other if isinstance(other, dict) else at < len(other):
            holder[key] = json.loads(json.dumps(other[at], default=str))


def _grow(holder: Any, key: Any, places: list[Place], chance: random.Random) -> None:
    if isinstance(holder, list):
        holder.extend(holder[:50] or [0])
    else:
        holder["more"] = chance.choice(VALUES)


def _nest(holder: Any, key: Any, places: list[Place], chance: random.Random) -> None:
    deep: Any = 0
    for _ in range(chance.choice((3, 60, 70, 500))):
        deep = [deep] if chance.random() < 0.5 else {"a": deep}
    holder[key] = deep


_WAYS: tuple[Way, ...] = (_replace, _replace, _replace, _drop, _drop, _rename, _copy, _grow, _nest)
