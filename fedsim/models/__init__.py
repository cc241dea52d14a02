"""Models: one adapter file per family on ``transformers``, and presets that need no download."""

from fedsim.models.base import ModelAdapter, ModelSpec, Projection, Task, Trunk, select
from fedsim.models.loading import FAMILIES, cached_adapter, load_adapter
from fedsim.models.presets import PRESETS

__all__ = [
    "FAMILIES",
    "PRESETS",
    "ModelAdapter",
    "ModelSpec",
    "Projection",
    "Task",
    "Trunk",
    "cached_adapter",
    "load_adapter",
    "select",
]
