"""The config reference, ``docs/config.md``, from the schema.

``python -m fedsim.lab.config.reference > docs/config.md`` writes it anew; a test says when that is
due.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from attacks import ATTACKS
from clients.partitions import PARTITIONS, PARTITIONS_BY_COLUMN
from defenses import DEFENSES
from fedsim.lab.config.schema import Config, PluginSection
from fedsim.messages import Knowledge
from server.strategies import STRATEGIES

HEAD = """# Config reference

Made from `fedsim/lab/config/schema.py` by `python -m fedsim.lab.config.reference`.

A config is TOML, and every key can be given as a word of the command line: `training.batch_size=8`.
The value of a word is TOML, or else a string. What is not known, or is not allowed, is refused in
one line before anything starts; `config.toml` of a run holds every key as it was in force.
"""
NUMBERS = {int: "an integer", float: "a number"}
KINDS = {str: "text", bool: "`true` or `false`", dict: "a table", **NUMBERS}
LIMITS = {"ge": "{} or more", "gt": "above {}", "le": "at most {}"}


def choices() -> dict[str, Sequence[str]]:
    """Return the words that a key takes, where they stand in a table of the code."""
    return {
        "data.partition": sorted(PARTITIONS),
        "data.partition_by": ["a column", f"used by {', '.join(sorted(PARTITIONS_BY_COLUMN))}"],
        "federation.strategy": sorted(STRATEGIES),
        "attack.name": sorted(ATTACKS),
        "attack.knowledge": [*Knowledge.names(), "paper"],
        "defense.name": sorted(DEFENSES),
    }


def reference() -> str:
    """Return ``docs/config.md``."""
    sections: list[str] = [HEAD, *_table("", "The run", Config)]
    for name, field in Config.model_fields.items():
        if kind := section_of(field):
            title = f"[[{name}]]" if issubclass(kind, PluginSection) else f"[{name}]"
            sections += _table(f"{name}.", f"`{title}`", kind)
            if issubclass(kind, PluginSection):
                named = ", ".join(f"`{row.name}`" for row in field.default)
                sections.append(f"Without such a table: {named or 'nothing'}.\n")
    return "\n".join(sections)


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a key holds, alone or in a list, or None where it is a value."""
    kind: Any = next(iter(get_args(field.annotation)), field.annotation)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table(prefix: str, title: str, section: type[BaseModel]) -> Iterable[str]:
    yield f"## {title}\n"
    yield f"{_unwrapped(section.__doc__ or '')}\n"
    yield "| key | default | allowed | meaning |\n|---|---|---|---|"
    for name, field in section.model_fields.items():
        if section_of(field) is None:
            key = f"{prefix}{name}"
            cells = (f"`{key}`", default(field), allowed(key, field), field.description or "")
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _unwrapped(text: str) -> str:
    """Return a docstring's words as Markdown: its paragraphs on one line each."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return "\n\n".join(paragraphs).replace("``", "`")


def default(field: FieldInfo) -> str:
    """Return what a key is where the config does not have it."""
    if isinstance(field.json_schema_extra, dict) and "default" in field.json_schema_extra:
        return str(field.json_schema_extra["default"])  # that of a factory, in a word
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f'`"{field.default}"`' if isinstance(field.default, str) else f"`{field.default}`"


def allowed(key: str, field: FieldInfo) -> str:
    """Return what a key may be."""
    if key in choices():
        words = choices()[key]
        return ", ".join(word if " " in word else f"`{word}`" for word in words)
    limits = [
        text.format(getattr(limit, name))
        for limit in field.metadata
        for name, text in LIMITS.items()
        if hasattr(limit, name)
    ]
    patterns = [f"matches `{p}`" for m in field.metadata if (p := getattr(m, "pattern", None))]
    return ", ".join([_kind(field.annotation), *limits, *patterns])


def _kind(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in inner)
    if origin is list:
        return f"a list of {'integers' if int in (inner[0], *get_args(inner[0])) else 'texts'}"
    if origin is Union:
        return " or ".join(map(_kind, inner))
    return KINDS[origin or annotation]


if __name__ == "__main__":
    print(reference(), end="")
