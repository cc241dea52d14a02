"""Read the longest length off the gradient of learned positions: unused rows are zero."""

import math
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from attacks.reads.decay import without_decayed_rows
from attacks.reads.effects import rows_are_open
from attacks.reads.gradient import gradient_of
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation

SURE = 4.0  # standard deviations of a noise row's norm: of 1,000 rows, one in 30 updates is beyond
WHOLE = 0.75  # of a used row's entries that are not zero; dropout zeroes some of GPT-2's
HOLES = 0.05  # of all entries beside the embeddings that may be zero; dropout zeroes 2 %


def read_lengths(observation: Observation) -> tuple[int, bool]:
    """Return the longest sequence's length in tokens, and whether it is plain from the update.

    It is not where noise, signs or rounding may have filled or zeroed rows: then the length is that
    of the last row that stands out, and the text may be longer.

    Raises:
        UnsupportedObservation: the update has no gradient of learned positions, or noise hides it.
    """
    name = positions_of(observation)
    if name is None or name not in observation.update.tensors:
        raise UnsupportedObservation(
            "matching needs the lengths: grant knowledge.lengths, as the update shows no gradient "
            "of learned positions to read them from"
        )
    gradient = gradient_of(observation, name).double()  # (P, D)
    gradient = without_decayed_rows(gradient, observation, name)
    used = (gradient.norm(dim=1) > _level(gradient)).nonzero().flatten()
    if not len(used):
        raise UnsupportedObservation(
            "matching needs the lengths: grant knowledge.lengths, as no row of "
            f"{name!r} stands out from the others"
        )
    last = int(used[-1])
    plain = _plain(gradient, last) and _dense(observation) and not rows_are_open(observation)
    model = observation.model
    around = len(model.prefix) + len(model.suffix)
    # nothing is predicted from a text's last place; where tokens see those after them it is read
    unused = model.spec.task == "causal-lm" and model.causal
    longest = max(last + 1 + unused, around + 1)
    return min(longest, model.positions), plain


def _level(gradient: Tensor) -> float:
    """Return what a row's norm is above where a text uses it: zero, or the most that noise makes.

    The norm of D normal numbers strays by about 1 / sqrt(2 D) of itself; the least of all rows is
    as far below as the largest is above.
    """
    stray = min(0.5, SURE / math.sqrt(2 * gradient.shape[1]))
    least = float(gradient.norm(dim=1).min())
    return least * (1 + stray) / (1 - stray)


def _plain(gradient: Tensor, last: int) -> bool:
    """Return whether rows up to ``last`` are all used and the others, if any, are exactly zero.

    Noise leaves no row at zero; a mask leaves holes in the rows that it spares.
    Where no row is left over, noise on all is told from a text that fills all by nothing.
    """
    filled = (gradient[: last + 1] != 0).double().mean(dim=1)  # (T,)
    rest = gradient[last + 1 :]
    return len(rest) > 0 and not rest.any() and bool(torch.all(filled >= WHOLE))


def _dense(observation: Observation) -> bool:
    """Return whether hardly an entry is zero where no token chooses the row.

    Top-k and rounding leave holes there before they empty a whole row that was used.
    """
    patterns = observation.model.groups["embeddings"]
    rest = [
        tensor
        for name, tensor in observation.update.tensors.items()
        if not any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    entries = sum(tensor.numel() for tensor in rest)
    zeros = entries - sum(int(tensor.count_nonzero()) for tensor in rest)
    return zeros < HOLES * entries


def positions_of(observation: Observation) -> str | None:
    """Return the name of the learned positions' weight, if the model has them."""
    if not observation.model.positional:
        return None
    for name, module in observation.model.module.named_modules():
        size = (observation.model.positions, observation.model.width)
        if isinstance(module, nn.Embedding) and tuple(module.weight.shape) == size:
            return f"{name}.weight"
    return None
