"""How often each sentence was in a classifier's batch, by what came back to it from the loss.

Of m examples with the same text, sum over them of dL/dlogits is (m p - c) / B, where p are the
label probabilities of the text and c counts its examples by label: m p - c is whole but for p.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.inputs import weight_decay
from fedsim.messages import Observation, Tokens

WHOLE = 0.1  # how far a count may be from a whole number
MOST = 1024  # examples in an update up to which they are counted
EXPLAINED = 0.999  # the share of a gradient's square that sentences explain if none is missing


def whole_counts(chances: Tensor, amounts: Tensor, examples: int) -> list[int] | None:
    """Return how many of the ``examples`` each text stands for, or None where that is unclear.

    Args:
        chances: (N, K) label probabilities of each text.
        amounts: (N, K) dL/dlogits, summed over the examples of each text; perhaps scaled.
        examples: how many the client says it has.
    """
    if not 0 < examples <= MOST:
        return None
    for share in _shares(chances, amounts, examples):
        counts = [
            _times(chance, amount, examples)
            for chance, amount in zip(chances, amounts / share, strict=True)
        ]
        if all(counts) and sum(counts) == examples:
            return counts
    return None


def _shares(chances: Tensor, amounts: Tensor, examples: int) -> list[float]:
    """Return what one example's share of the loss may be: some text had one example alone."""
    found = [1 / examples]  # but for scaling
    for chance, amount in zip(chances, amounts, strict=True):
        label = int(amount.argmin())  # dL/dlogits is p - y: negative at y alone
        share = float(amount[label] / (chance[label] - 1))
        if share > 0:
            found.append(share)
    return found


def _times(chances: Tensor, amounts: Tensor, examples: int) -> int:
    """Return how many examples a text has: each label's m p - g must be whole; 0: unclear."""
    for times in range(1, examples + 1):
        counts = times * chances - amounts
        if (counts - counts.round()).abs().max() < WHOLE and counts.min() > -WHOLE:
            return times
    return 0


def counted(
    seen: Observation, found: Sequence[Tokens]
) -> tuple[tuple[Tokens, ...], float, bool] | None:
    """Return the sentences as often as they were there, by the gradient of a classifier's head.

    The head's gradient is the sum over the sentences of dL/dlogits times what the head reads of
    each, which is known once the sentences are. Where they explain it, none is missing.

    Returns:
        The sentences, the share of the gradient's square that they explain, and whether their
        counts are determined. None where the update shows no head, or no label.
    """
    model = seen.model
    if model.spec.task != "classification" or not found:
        return None
    name, states, logits = model.decisions(seen.broadcast.parameters, found)
    update = seen.update.tensors.get(name)
    if update is None:
        return None
    sent = seen.broadcast.parameters[name].double()
    gradient = update.double() - weight_decay(seen) * sent  # (K, D)
    states, size = states.double().cpu(), gradient.square().sum()
    if len(found) > states.shape[1] or not size:
        return tuple(found), 0.0, False
    amounts: Tensor = torch.linalg.lstsq(states.T, gradient.T).solution  # (N, K)
    rest = gradient - (states.T @ amounts).T
    explained = float(1 - rest.square().sum() / size)
    counts = None
    if explained > EXPLAINED:
        chances = logits.double().cpu().softmax(dim=1)
        counts = whole_counts(chances, amounts, seen.update.num_examples)
    if counts is None:
        return tuple(found), explained, False
    whole = zip(found, counts, strict=True)
    return tuple(one for one, times in whole for _ in range(times)), explained, True
