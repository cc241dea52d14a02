"""Model families, one a file, named as ``transformers`` names the folder of theirs.

A family is its file and nothing else: what ``transformers`` calls its parts, its sizes without
weight files, its special tokens. Nothing lists the files: one that is put here is a family.
"""

import importlib
import pkgutil

from transformers import PreTrainedConfig

from fedsim.errors import BadInput, unknown
from fedsim.models.base import ModelAdapter


def family_names() -> list[str]:
    """Return the families that there are, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def family(model_type: str, subject: str = "model:") -> type[ModelAdapter]:
    """Return the family of what ``transformers`` calls a ``model_type``.

    Raises:
        BadInput: there is none; the line begins with ``subject``.
    """
    name = model_type.replace("-", "_")
    if name not in family_names():
        known = ", ".join(family_names())
        raise BadInput(f"{subject} a {model_type!r} model; families known: {known}")
    module = importlib.import_module(f"{__name__}.{name}")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    own = [kind for kind in kinds if kind.__module__ == module.__name__]
    return next(kind for kind in own if issubclass(kind, ModelAdapter))


def preset_names() -> list[str]:
    """Return the presets of all families, in alphabetical order."""
    return sorted(preset for name in family_names() for preset in family(name).presets)


def preset(name: str) -> PreTrainedConfig:
    """Return the architecture called ``builtin:<name>``: its family's name, and maybe a size.

    Raises:
        BadInput: there is no such preset.
    """
    kind = name.partition("-")[0]
    if kind not in family_names() or name not in family(kind).presets:
        raise BadInput(f"model.name: {unknown('preset', name, preset_names())}")
    return family(kind).presets[name]()
