"""The loss of a set of texts: an update does not tell which of a batch's texts came first.

Source: Wu et al., UAI 2023, arXiv:2210.10880, sec. 4.1: the cross-entropy after the assignment of
        guesses to texts that makes it least (the Hungarian algorithm), as Carion et al., ECCV 2020,
        arXiv:2005.12872, predict sets.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from attacks.learned.decoder import Decoder
from attacks.learned.features import Seen


def matched_loss(network: Decoder, seen: Seen, texts: Tensor, words: Tensor | None) -> Tensor:
    """Return the mean cross-entropy, in nats a token, of the best matching.

    Args:
        network: what guesses.
        seen: N updates.
        texts: (N, B, T) what they are of.
        words: (C,) the tokens in question, in order; None: all.
    """
    logits = network.logits(network.states(seen), seen, words)  # (N, B, T, C)
    nats = -logits.log_softmax(dim=-1)
    wanted = texts if words is None else torch.searchsorted(words, texts)
    index = wanted[:, None].expand(-1, texts.shape[1], -1, -1).transpose(2, 3)  # (N, B, T, B)
    each = nats.gather(3, index).mean(dim=2)  # (N, B, B) of a guess for a text
    return torch.stack([_least(one) for one in each]).mean()


def _least(nats: Tensor) -> Tensor:
    """Return the mean of nats (B, B) over the best one-to-one pairs."""
    if len(nats) == 1:
        return nats[0, 0]
    rows, columns = linear_sum_assignment(nats.detach().cpu().numpy())
    return nats[torch.from_numpy(rows), torch.from_numpy(columns)].mean()


def most(scores: Tensor) -> float:
    """Return the largest sum of scores (B, B) that one-to-one pairs have."""
    rows, columns = linear_sum_assignment(scores.numpy(), maximize=True)
    return float(scores[rows, columns].sum())
