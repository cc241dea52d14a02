"""Models: one adapter file per family on ``transformers``, and presets that need no download."""

from fedsim.models.base import ModelAdapter
from fedsim.models.closing import Closing
from fedsim.models.loading import BUILTIN, FAMILIES, load_adapter
from fedsim.models.memory import adapter_of
from fedsim.models.norms import Norm
from fedsim.models.opening import Opening
from fedsim.models.presets import PRESETS
from fedsim.models.spec import ModelSpec, Place, Projection, Task
from fedsim.models.trunk import Trunk, select

__all__ = [
    "BUILTIN",
    "FAMILIES",
    "PRESETS",
    "Closing",
    "ModelAdapter",
    "ModelSpec",
    "Norm",
    "Opening",
    "Place",
    "Projection",
    "Task",
    "Trunk",
    "adapter_of",
    "load_adapter",
    "select",
]
