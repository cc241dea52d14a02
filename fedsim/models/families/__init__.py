"""Model families, one a file, named as ``transformers`` names the folder of theirs.

A family is its file and nothing else: what ``transformers`` calls its parts, its sizes without
weight files, its special tokens. Nothing lists the files: one that is put here is a family.
"""

import importlib
import pkgutil

from transformers import PreTrainedConfig

from fedsim.errors import BadInput, unknown
from fedsim.models.base import ModelAdapter
from fedsim.models.generic import generic


def family_names() -> list[str]:
    """Return the families that there are, in alphabetical order."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def family(model_type: str, subject: str = "model:") -> type[ModelAdapter]:
    """Return the family of what ``transformers`` calls a ``model_type``.

    Where there is no file of it, the model is read through its module graph.

    Raises:
        BadInput: it is no decoder or encoder of text (the line begins with ``subject``), or the
            family's file is broken.
    """
    name = model_type.replace("-", "_")
    if name not in family_names():
        graph = generic(model_type)
        if graph is None:
            raise BadInput(
                f"{subject} a {model_type!r} model; wanted a decoder or an encoder of text that "
                "transformers knows, and no encoder-decoder"
            )
        return graph
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except (Exception, SystemExit) as error:  # anything may go wrong while a file is imported
        raise BadInput(f"family {name!r}: its file cannot be imported: {error!r}") from error
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    own = [kind for kind in kinds if issubclass(kind, ModelAdapter)]
    for kind in own:
        if kind.__module__ == module.__name__ and kind.__dict__.get("family") == name:
            return kind
    raise BadInput(f"family {name!r}: its file holds no ModelAdapter of that family")


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
