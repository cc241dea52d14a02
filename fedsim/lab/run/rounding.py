"""How finely an update's numbers were written: small steps of 16-bit weights are lost."""

import torch
from torch import Tensor

from fedsim.finite import finite


def written(sent: Tensor | None, moved: Tensor, kind: str) -> Tensor:
    """Return the numbers that were rounded: weights after a step, or a gradient.

    Args:
        sent: the weights before, where they are known.
        moved: the update, of the same shape; else nothing is known of what was before. Nor is it
            where that has no number.
        kind: of the update, ``gradient`` or ``delta``.
    """
    if sent is None or sent.shape != moved.shape or kind != "delta":
        return moved
    after = sent.to(moved) + moved
    return after if finite(after) else moved


def epsilon_of(numbers: Tensor) -> float:
    """Return the machine epsilon of the shortest float that holds all of these numbers."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(numbers.to(dtype).to(numbers.dtype), numbers):
            return float(torch.finfo(dtype).eps)
    return float(torch.finfo(torch.float32).eps)


def is_short(numbers: Tensor) -> bool:
    """Return whether 16 bits hold all of these numbers."""
    return epsilon_of(numbers) > torch.finfo(torch.float32).eps
