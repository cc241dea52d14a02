"""Stands where torchvision's transforms are: a project's images are token ids (T) here.

A module of torchvision's name would not do: transformers looks for it, and takes it for the whole.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, item: Any) -> Any:
        for transform in self.transforms:
            item = transform(item)
        return item


class ToTensor:
    """Token ids (T) as a tensor."""

    def __call__(self, item: Any) -> torch.Tensor:
        return torch.as_tensor(item)


class Normalize:
    """Token ids have no mean to take off."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = mean, std

    def __call__(self, item: Any) -> Any:
        return item
