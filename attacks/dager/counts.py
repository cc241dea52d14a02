"""How often each sentence was in a classifier's batch, by what came back to it from the loss.

Of m examples with the same text, the sum over them of dL/dlogits is (m p - c) / B, where p are the
label probabilities of the text and c counts its examples by label: m p - c + c is whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Notes
from attacks.dager import thresholds
from attacks.reads import label_counts, shown_decay
from fedsim.messages import Observation
from fedsim.types import Tokens


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The sequences of a batch, as a later weight's gradient tells them.

    Attributes:
        sequences: with repetitions where ``counted``.
        explained: the share of the gradient's square that they explain, in [0, 1].
        clear: they explain it but for rounding, so that none is missing.
        counted: whether the multiplicities are determined.
    """

    sequences: tuple[Tokens, ...]
    explained: float
    clear: bool
    counted: bool


def enough(gradient: Tensor) -> float:
    """Return the share of a gradient's square that is all of it, but for its dtype's rounding."""
    rounding = thresholds.UNEXPLAINED_EPS * torch.finfo(gradient.dtype).eps ** 2
    return 1 - max(thresholds.UNEXPLAINED, rounding)


def whole_counts(chances: Tensor, amounts: Tensor, examples: int) -> list[int] | None:
    """Return how many of the ``examples`` each text stands for, or None where that is unclear.

    Args:
        chances: (N, K) label probabilities of each text.
        amounts: (N, K) dL/dlogits, summed over the examples of each text; perhaps scaled.
        examples: how many the client says it has.
    """
    if not len(chances) <= examples <= thresholds.MOST_EXAMPLES or not examples:
        return None
    chances, amounts = chances.cpu(), amounts.cpu()
    alone = _shares(chances, amounts)
    repeated = range(2, thresholds.REPEATS + 1)
    tries = [alone, [1 / examples], *([share / times for share in alone] for times in repeated)]
    for shares in tries:
        fits = {fit for share in shares for fit in _fit(chances, amounts / share, examples)}
        if fits:
            return (list(fits.pop()) or None) if len(fits) == 1 else None
    return None


def _fit(chances: Tensor, amounts: Tensor, examples: int) -> list[tuple[int, ...]]:
    """Return the counts that add up to ``examples``, if any do; () where several do."""
    pairs = zip(chances, amounts, strict=True)
    fit = _adding_up([_times(chance, amount, examples) for chance, amount in pairs], examples)
    return [] if fit is None else [fit]


def _shares(chances: Tensor, amounts: Tensor) -> list[float]:
    """Return what one example's share of the loss would be if a text had one example alone."""
    shares = []
    for chance, amount in zip(chances, amounts, strict=True):
        label = int(amount.argmin())  # dL/dlogits is p - y: negative at y alone
        share = float(amount[label] / (chance[label] - 1))
        if share > 0:
            shares.append(share)
    return shares


def _times(chances: Tensor, amounts: Tensor, examples: int) -> list[int]:
    """Return how many examples a text may have: each label's m p - g must be a whole number."""
    times = torch.arange(1, examples + 1)  # (M,)
    _, whole = label_counts(chances, amounts, times[:, None], thresholds.NEAR_WHOLE)
    return times[whole].tolist()


def _adding_up(possible: Sequence[Sequence[int]], total: int) -> tuple[int, ...] | None:
    """Return the choice of one of each of ``possible`` whose sum is ``total``; () for several."""
    ways = [torch.zeros(total + 1, dtype=torch.int64)]  # to reach each sum so far; 2 is many
    ways[0][0] = 1
    for some in possible:
        more = torch.zeros_like(ways[0])
        for times in some:
            more[times:] += ways[-1][: total + 1 - times]
        ways.append(more.clamp_max(2))
    if ways[-1][total] != 1:
        return () if ways[-1][total] else None
    chosen: list[int] = []
    for before, some in zip(reversed(ways[:-1]), reversed(possible), strict=True):
        left = total - sum(chosen)
        chosen.append(next(times for times in some if times <= left and before[left - times]))
    return tuple(reversed(chosen))


def with_counts(
    observation: Observation, sentences: Sequence[Tokens], notes: Notes
) -> tuple[Tokens, ...]:
    """Return ``sentences`` as often as a head's gradient tells; how sure that is goes in notes."""
    told = counted(observation, sentences)
    if told is None:
        return tuple(sentences)
    complete = told.clear and not notes["best_effort"]
    notes |= {"explained": told.explained, "counted": told.counted}
    notes["best_effort"] = not (told.counted or complete)
    return told.sequences


def counted(observation: Observation, sentences: Sequence[Tokens]) -> Counted | None:
    """Return the sentences as often as they were there, by the gradient of a classifier's head.

    The head's gradient is the sum over the sentences of dL/dlogits times what the head reads of
    each, which is known once the sentences are. None where the update shows no such head.
    """
    if observation.model.spec.task != "classification" or not sentences:
        return None
    name, states, logits = observation.model.decisions(observation.broadcast.parameters, sentences)
    update = observation.update.tensors.get(name)
    if update is None:
        return None
    sent = observation.broadcast.parameters[name].double()
    gradient = update.double() - shown_decay(observation) * sent  # (K, D)
    gradient = -gradient if observation.update.kind == "delta" else gradient
    states, size = states.double().cpu(), gradient.square().sum()  # (N, D)
    if len(sentences) > states.shape[1] or not size:
        return Counted(sequences=tuple(sentences), explained=0.0, clear=False, counted=False)
    amounts: Tensor = torch.linalg.lstsq(states.T, gradient.T).solution  # (N, K)
    explained = float(1 - (gradient - (states.T @ amounts).T).square().sum() / size)
    clear = explained >= enough(update)
    chances = logits.double().cpu().softmax(dim=1)
    counts = whole_counts(chances, amounts, observation.update.num_examples) if clear else None
    times = [1] * len(sentences) if counts is None else counts
    return Counted(
        sequences=tuple(
            sentence for sentence, count in zip(sentences, times, strict=True) for _ in range(count)
        ),
        explained=explained,
        clear=clear,
        counted=counts is not None,
    )
