"""Whether LoRA's B's of block 0 moved in all of their dimensions, as by more inputs than its rank.

B (K, R) moves by a sum over inputs, each through A, so fewer inputs than R leave directions that
move by rounding alone. An attack's own spectrum cannot say so of few dimensions: it takes noise's
level from the last of them. Here it is what rounding makes of the weights that were sent. What else
moves B fills it as well: noise, weight decay, entries that were left out.
"""

import re

import torch
from torch import Tensor

from fedsim.finite import finite
from fedsim.lab.run.rounding import epsilon_of, written
from fedsim.models.shapes import UP
from fedsim.types import Parameters

BLOCK = re.compile(r"(?:^|\.)(\d+)\.")  # its number in a name; of a list, its place
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
    """Return whether all of block 0's B's that moved did so in all of their dimensions.

    Those alone, and all: where positions are not embedded its attention reads a token once, however
    often it is there, and what follows reads each place.

    Args:
        update: gradient, or what the weights moved by.
        sent: the weights before.
        kind: of the update, ``gradient`` or ``delta``.
    """
    told = [
        directions(tensor, written(sent.get(name), tensor, kind)) == tensor.shape[1]
        for name, tensor in _first(update).items()
        if tensor.dim() == 2 and min(tensor.shape) > 1 and len(tensor) >= tensor.shape[1]
        if finite(tensor) and tensor.any()
    ]
    return bool(told) and all(told)


def directions(moved: Tensor, rounded: Tensor) -> int:
    """Return in how many dimensions inputs moved LoRA's B.

    Args:
        moved: (K, R), K >= R: what it moved by.
        rounded: of its shape: the numbers that were rounded, see :func:`written`.
    """
    scale = rounded.abs().max().double().clamp_min(1e-300)  # squares of float64's largest have none
    values = torch.linalg.svdvals(moved.double() / scale)
    step = (rounded.double() / scale).square().mean().sqrt() * epsilon_of(rounded) / 2
    noise = step * sum(side**0.5 for side in moved.shape)
    above = int((values > ABOVE * noise).sum())
    wide = (values[:-1] / values[1:].clamp_min(1e-300) >= GAP).nonzero()
    return min([above, *(wide[0] + 1).tolist()]) if len(wide) else above


def _first(update: Parameters) -> dict[str, Tensor]:
    """Return the B's of the first block."""
    ups = [name for name in update if UP in name]
    block = {name: int(found[1]) for name in ups if (found := BLOCK.search(name))}
    least = min(block.values(), default=None)  # without a number: a pooler's, or all are of a list
    return {name: update[name] for name in ups if block.get(name) == least}
