"""Weights in which nothing is trivial, and what a module's part is given."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedsim.models import ModelAdapter, Opening
from fedsim.types import Parameters


def stirred(model: ModelAdapter) -> dict[str, Tensor]:
    """Return weights in which no bias is 0 and no norm's weight is 1."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.initial_parameters().items()
    }


def opened(model: ModelAdapter, parameters: Parameters) -> Opening:
    """Return block 0 as the model's family has it in the open."""
    opening = model.opening(parameters)
    assert isinstance(opening, Opening)
    return opening


@contextmanager
def caught(part: nn.Module) -> Iterator[list[Tensor]]:
    """Yield the inputs that ``part`` is called with."""
    inputs: list[Tensor] = []
    hook = part.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    try:
        yield inputs
    finally:
        hook.remove()
