"""Whether more inputs than LoRA's rank were read: whether its B's move in all of their dimensions.

B (K, R) moves by a sum over inputs, each through A, so fewer inputs than R leave directions that
move by rounding alone. An attack's own spectrum cannot say so of few dimensions: it takes noise's
level from the last of them. Here it is what rounding makes of the weights that were sent.
"""

from statistics import median

import torch
from torch import Tensor

from fedsim.models.shapes import UP
from fedsim.types import Parameters

ABOVE = 30.0
"""Times rounding, from which on B's last direction was moved by an input.

From: tiny GPT-2, LoRA 4 to 64, 3 to 60 inputs, plain steps: where inputs are fewer it is at most
1.1 times, where they are not fewer 900 times at least.
"""
GAP = 100.0
"""What parts inputs from what the later of several steps add, which is above rounding, too.

From: the same, and 1 to 30 steps of SGD at rates of 1e-3 to 1 (ranks 8, 32; 4 and 160 tokens):
where inputs are fewer 230 at least, where they are not 8 at most. Both were chosen on these; of
the real projects' LoRA (stories260K, trained, 21 to 30 inputs of 32 and 64) none is called filled.
"""


def filled(update: Parameters, sent: Parameters, kind: str) -> bool:
    """Return whether most of LoRA's B's that moved did so in all of their dimensions.

    Args:
        update: gradient, or what the weights moved by.
        sent: the weights before.
        kind: of the update, ``gradient`` or ``delta``.
    """
    ups = {n: t for n, t in update.items() if UP in n and t.dim() == 2 and t.any()}
    told = [
        _filled(tensor.double(), _from(sent.get(name), tensor, kind))
        for name, tensor in ups.items()
        if tensor.isfinite().all() and min(tensor.shape) > 1 and len(tensor) >= tensor.shape[1]
    ]
    return bool(told) and median(told) > 0.5


def _from(sent: Tensor | None, moved: Tensor, kind: str) -> Tensor:
    """Return the numbers that were rounded: weights after a step, or a gradient."""
    return moved if sent is None or kind != "delta" else sent.to(moved) + moved


def _filled(moved: Tensor, rounded: Tensor) -> bool:
    values = torch.linalg.svdvals(moved)
    step = rounded.double().square().mean().sqrt() * _epsilon(rounded) / 2
    noise = step * sum(side**0.5 for side in moved.shape)
    gaps = values[:-1] / values[1:].clamp_min(1e-300)
    return bool(values[-1] > ABOVE * noise and gaps.max() < GAP)


def _epsilon(rounded: Tensor) -> float:
    """Return the machine epsilon of the shortest float that holds all of these numbers."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(rounded.to(dtype).to(rounded.dtype), rounded):
            return float(torch.finfo(dtype).eps)
    return float(torch.finfo(torch.float32).eps)
