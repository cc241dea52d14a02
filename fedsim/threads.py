"""How many threads torch computes on: a float sum depends on how many share it."""

import contextlib
import os
from collections.abc import Iterator

import torch

from fedsim.types import Parameters

LARGE = 20_000_000  # parameters from which more than one thread pays


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch on ``count`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_threads(parameters: Parameters) -> int:
    """Return how many threads pay for a model of this size: one, or all there are."""
    size = sum(tensor.numel() for tensor in parameters.values())
    return (os.cpu_count() or 1) if size >= LARGE else 1
