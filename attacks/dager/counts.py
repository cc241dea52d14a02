"""How often each text was in a classifier's batch, by what came back to it from the loss.

Of m examples with the same text, the sum over them of dL/dlogits is s (m p - c), where p are the
label probabilities of the text, c counts its examples by label, and s is one example's share of the
loss: m p - sum / s = c is whole. Each text stands for so many examples at the least. Where these
add up to what the client states, nothing else can have been there, and the counts are sure. Where
they do not, texts fit their labels too well to be told apart from none, or from more of others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb

import torch
from torch import Tensor

from attacks.base import Notes
from attacks.dager import thresholds
from attacks.reads import label_counts

NOTHING = 1e-12  # float64's rounding of a count


@dataclass(frozen=True, kw_only=True)
class SeenTexts:
    """N texts that may have been in a batch, and what came back to each, float64.

    Attributes:
        chances: (N, K) label probabilities.
        slack: (N, K) how far off these may be.
        amounts: (N, K) dL/dlogits, summed over the examples of each text; perhaps scaled.
        doubt: (N,) how far off these may be.
        there: (N,) bool: texts that are known to be in the batch.
    """

    chances: Tensor
    slack: Tensor
    amounts: Tensor
    doubt: Tensor
    there: Tensor


@dataclass(frozen=True)
class Counts:
    """How many examples each text stands for at the least, and whether that is all of them."""

    times: tuple[int, ...]
    sure: bool


def enough(gradient: Tensor) -> float:
    """Return the share of a gradient's square that is all of it, but for its dtype's rounding."""
    rounding = thresholds.UNEXPLAINED_EPS * torch.finfo(gradient.dtype).eps ** 2
    return 1 - max(thresholds.UNEXPLAINED, rounding)


def spread(chances: Tensor, head: Tensor, states: Tensor) -> Tensor:
    """Return how far off label probabilities (N, K) may be, by float32's rounding.

    That of a model's states, and that of a client's own p - y, which is 1e-7 of y.

    Args:
        chances: softmax of ``states`` times ``head``.
        head: (K, D).
        states: (N, D) what the head reads.
    """
    widest = torch.cdist(head, head).max()
    error = (thresholds.STATES * widest * states.norm(dim=1, keepdim=True)).clamp(max=1.0)
    own = thresholds.LOSS * torch.finfo(torch.float32).eps
    slack: Tensor = chances * (1 - chances) * torch.expm1(2 * error) + own
    return slack


def count(
    texts: SeenTexts,
    examples: int,
    share: float | None,
    *,
    even: bool = True,
    notes: Notes | None = None,
) -> Counts | None:
    """Return how many of a client's ``examples`` each of ``texts`` stands for; None: unclear.

    Args:
        texts: all that may have been in the batch.
        examples: how many the client says it has.
        share: one example's share of the loss, where the protocol tells it. Others are tried only
            where that is shown to be wrong, or is None: then one reading alone must fit.
        even: whether all examples have one share; else only one of each text is sure.
        notes: say ("cut") where it would be too much work.
    """
    if examples <= 0 or not len(texts.amounts):
        return None
    if share is not None and examples <= thresholds.MOST_EXAMPLES:
        least = _least(texts, share, examples)
        if least is not None:
            return Counts(least, sum(least) == examples and _stand_out(texts, share, least))
    shares = list(_shares(texts, examples))
    work = len(shares) * examples * texts.amounts.shape[1]
    if examples > thresholds.MOST_EXAMPLES or work > thresholds.COUNTING:
        if notes is not None:
            notes["cut"] = True
        return None
    readings = {times: some for some in shares if (times := _least(texts, some, examples))}
    if len(readings) != 1:
        return None
    ((one, some),) = readings.items()
    certain = (even or max(one) == 1) and _stand_out(texts, some, one)
    return Counts(one, certain) if sum(one) == examples else None


def _stand_out(texts: SeenTexts, share: float, times: tuple[int, ...]) -> bool:
    """Return whether what came back to each text that is not known to be there is far above doubt.

    One that was not found, and is seen much as that one is, may have left what looks like it.
    """
    found = torch.tensor(times)
    guessed = ~texts.there & (found > 0)
    doubt = texts.doubt + share * found * texts.slack.amax(dim=1)
    clear = texts.amounts.abs().amax(dim=1) > thresholds.STANDS_OUT * doubt
    return bool(clear[guessed].all())


def _least(texts: SeenTexts, share: float, examples: int) -> tuple[int, ...] | None:
    """Return the fewest examples that each text can stand for; None: one can for none of them."""
    found = torch.full((len(texts.amounts),), -1)
    part = max(1, thresholds.COUNTED // texts.amounts.numel())
    for first in range(0, examples + 1, part):
        times = torch.arange(first, min(first + part, examples + 1))[:, None, None]  # (M, 1, 1)
        near = texts.doubt[:, None] / share + times * texts.slack + NOTHING  # (M, N, K)
        _, fits = label_counts(texts.chances, texts.amounts / share, times, near)
        fits |= (near >= 0.5).any(dim=-1)  # so far off, any number is near a whole one
        fits &= ~texts.there | (times[..., 0] > 0)  # (M, N)
        new = (found < 0) & fits.any(dim=0)
        found[new] = first + fits.int().argmax(dim=0)[new]
        open_ = found < 0
        if int(found[~open_].sum()) + int(open_.sum()) * (first + len(times)) > examples:
            return None
        if not open_.any():
            return tuple(found.tolist())
    return None


def _shares(texts: SeenTexts, examples: int) -> Iterator[float]:
    """Yield what one example's share would be if the clearest text stood for this or that few."""
    size, labels = texts.amounts.abs().amax(dim=1), texts.amounts.shape[1]
    clearest = int((size / texts.doubt.clamp_min(1e-300)).argmax())
    chances, amounts = texts.chances[clearest], texts.amounts[clearest]
    for times in range(1, min(thresholds.REPEATS, examples) + 1):
        if times > 1 and comb(times + labels - 1, times) > thresholds.SPLITS:
            return
        for chosen in combinations_with_replacement(range(labels), times):
            way = times * chances - torch.bincount(torch.tensor(chosen), minlength=labels)
            share = float(way @ amounts / (way @ way).clamp_min(1e-300))
            if share > 0:
                yield share
