"""Tables to a checked config; every error is one line that says what is meant."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedsim.errors import BadInput, shown
from fedsim.lab.config.schema import Config

S = TypeVar("S", bound=BaseModel)


def check(tree: Mapping[str, Any]) -> Config:
    """Return ``tree`` as a Config.

    Raises:
        BadInput: the first error, in one line.
    """
    if nothing := _null(tree):
        raise BadInput(f"{nothing}: wanted a value, got null, which TOML does not know")
    return checked(Config, tree)


def _null(value: Any, key: str = "") -> str:
    """Return the key of a null within ``value``, a config that was JSON; "" where there is none."""
    if value is None:
        return key or "config"
    if isinstance(value, Mapping):
        inner = ((f"{key}.{name}".removeprefix("."), part) for name, part in value.items())
    else:
        inner = ((key, part) for part in (value if isinstance(value, list) else ()))
    return next((found for name, part in inner if (found := _null(part, name))), "")


def checked(kind: type[S], tree: Mapping[str, Any]) -> S:
    """Return ``tree`` as a section of ``kind``; the first error as one line."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise BadInput(_line(error.errors()[0])) from error


def _line(error: ErrorDetails) -> str:
    # Unions put the name of the branch into the place: only keys and indices are of use.
    place = [str(part) for part in error["loc"] if not str(part).startswith(("literal[", "dict["))]
    key = ".".join(place)
    if error["type"] == "extra_forbidden":
        return _unknown(key)
    if error["type"] == "missing":
        return f"{key}: missing; it must be set"
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    wanted = error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if error["type"] == "string_pattern_mismatch":
        wanted = f"text that matches {error['ctx']['pattern']}"
    return f"{key or 'config'}: wanted {wanted}, got {shown(error['input'])}"


def _unknown(key: str) -> str:
    """Say which key is meant: the nearest of all, then those that stand beside it."""
    parent, _, last = key.rpartition(".")
    depth = key.count(".")
    known = known_keys()
    beside = {".".join(name.split(".")[: depth + 1]) for name in known if name.startswith(parent)}
    elsewhere = {name for name in known if name.rpartition(".")[2] == last}
    near = get_close_matches(key[:200], sorted(beside), n=1, cutoff=0.5) or sorted(elsewhere)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown key {shown(key)}{hint} (known here: {', '.join(sorted(beside))})"


def known_keys() -> list[str]:
    """Return every key of the config, dotted."""
    return sorted(_keys(Config, ""))


def _keys(section: type[BaseModel], prefix: str) -> Iterable[str]:
    for name, field in section.model_fields.items():
        inner: Any = field.annotation
        inner = next(iter(get_args(inner)), inner)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
