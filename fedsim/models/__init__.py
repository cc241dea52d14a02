"""Models: one adapter file per family on ``transformers``, and presets that need no download."""

from fedsim.models.base import ModelAdapter
from fedsim.models.closing import Closing
from fedsim.models.families import family, family_names, preset, preset_names
from fedsim.models.loading import BUILTIN, family_of, load_adapter
from fedsim.models.memory import adapter_of
from fedsim.models.norms import Norm
from fedsim.models.opening import Attending, Embedded, Entrance, Opening
from fedsim.models.spec import ModelSpec, Place, Projection, Task, Weights
from fedsim.models.tokenizing import takes_any_text
from fedsim.models.trunk import Past, Trunk, select

__all__ = [
    "BUILTIN",
    "Attending",
    "Closing",
    "Embedded",
    "Entrance",
    "ModelAdapter",
    "ModelSpec",
    "Norm",
    "Opening",
    "Past",
    "Place",
    "Projection",
    "Task",
    "Trunk",
    "Weights",
    "adapter_of",
    "family",
    "family_names",
    "family_of",
    "load_adapter",
    "preset",
    "preset_names",
    "select",
    "takes_any_text",
]
