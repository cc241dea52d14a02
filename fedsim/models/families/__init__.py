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


def family(model_type: str) -> type[ModelAdapter] | None:
    """Return the family of what ``transformers`` calls a ``model_type``, or None without one."""
    name = model_type.replace("-", "_")
    if name not in family_names():
        return None
    module = importlib.import_module(f"{__name__}.{name}")
    own = (
        one for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__
    )
    return next(one for one in own if isinstance(one, type) and issubclass(one, ModelAdapter))


def preset_names() -> list[str]:
    """Return the presets of all families, in alphabetical order."""
    kinds = [family(name) for name in family_names()]
    return sorted(name for kind in kinds if kind is not None for name in kind.presets)


def preset(name: str) -> PreTrainedConfig:
    """Return the architecture called ``builtin:<name>``: its family's name, and maybe a size.

    Raises:
        BadInput: there is no such preset.
    """
    kind = family(name.partition("-")[0])
    if kind is None or name not in kind.presets:
        raise BadInput(f"model.name: {unknown('preset', name, preset_names())}")
    return kind.presets[name]()
