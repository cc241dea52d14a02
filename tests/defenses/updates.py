"""A small update for naive loops, and how tests read one."""

from collections.abc import Mapping

import torch
from torch import Tensor

from defenses import Defense

Named = dict[str, Tensor]


def update(seed: int = 0) -> Named:
    draw = torch.Generator().manual_seed(seed)
    return {
        "b.weight": torch.randn(11, 7, generator=draw),
        "b.bias": 1e-3 * torch.randn(7, generator=draw),
        "a.weight": 3e-2 * torch.randn(5, 13, generator=draw),
    }


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sent(defense: Defense, raw: Named, seed: int = 0) -> Named:
    return dict(defense.protect(raw, seeded(seed)))


def entries(tensors: Mapping[str, Tensor]) -> list[float]:
    return [x for tensor in tensors.values() for x in tensor.double().flatten().tolist()]
