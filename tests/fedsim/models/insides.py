"""Weights in which nothing is trivial, and what a module's part is given."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedsim.models import ModelAdapter


def stirred(model: ModelAdapter) -> dict[str, Tensor]:
    """Return weights in which no bias is 0 and no norm's weight is 1."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: one + 0.05 * torch.randn(one.shape, generator=generator)
        for name, one in model.initial_parameters().items()
    }


@contextmanager
def caught(part: nn.Module) -> Iterator[list[Tensor]]:
    """Yield the inputs that ``part`` is called with."""
    seen: list[Tensor] = []
    hook = part.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        yield seen
    finally:
        hook.remove()
