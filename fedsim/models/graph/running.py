"""One run of a model up to one of its modules, and whether two say the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

CLOSE = 3e-4  # of a vector's length: two results of one sum are that near


class Stopped(Exception):
    """The run has come to where it should end."""


@torch.no_grad()
def read_by(base: nn.Module, part: nn.Module, tokens: Tensor, **given: Any) -> Tensor:
    """Return what ``part`` of ``base`` reads first of sentences (N, T): (N, T, D).

    Nothing after that runs, so of a cache among ``given`` only the blocks before it are extended.
    """
    caught: list[Tensor] = []

    def note(_: nn.Module, read: tuple[Tensor, ...]) -> None:
        caught.append(read[0])
        raise Stopped

    hook = part.register_forward_pre_hook(note)
    try:
        base(input_ids=tokens, **given)
    except Stopped:
        pass
    finally:
        hook.remove()
    return caught[0].reshape(*tokens.shape, -1)


def near(one: Tensor, other: Tensor) -> bool:
    """Return whether two results (..., D) of one sum, in float32, are the same."""
    apart = (one - other).norm(dim=-1)
    return bool((apart <= CLOSE * other.norm(dim=-1)).all())


@contextmanager
def stirred(module: nn.Module) -> Iterator[None]:
    """Have vectors of weights in which nothing is trivial: no bias is 0, and no norm's weight 1."""
    generator = torch.Generator().manual_seed(0)
    vectors = [tensor.data for tensor in module.parameters() if tensor.ndim == 1]
    before = [vector.clone() for vector in vectors]
    try:
        for vector in vectors:
            vector += 0.05 * torch.randn(vector.shape, generator=generator).to(vector)
        yield
    finally:
        for vector, old in zip(vectors, before, strict=True):
            vector.copy_(old)
