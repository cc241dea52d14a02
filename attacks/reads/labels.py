"""Infer a classifier's labels from the gradient of its last map.

With cross-entropy, the mean over B texts of p - y is mean(p) - c / B for the counts c of the
labels. Of one text, only its label's entry is negative, at any scale; of several the counts are
believed where they come out whole, at the scale that the protocol gives a gradient.

Source: Zhao et al., "iDLG", arXiv:2001.02610 (one label: the negative entry); the counts follow
        from the same formula with mean(p) taken from random texts.
"""

import torch
from torch import Tensor

from attacks.reads.counts import label_counts
from attacks.reads.effects import scale_is_open, told
from attacks.reads.slopes import Slope, find_slope, tensor_of
from fedsim.effects import Rescales
from fedsim.messages import Observation
from fedsim.types import Tokens

TEXTS = 32  # random texts that show what the model says of any text
NEAR = 0.25  # how far a count may be from a whole number
DOUBT = 0.25  # the count's standard deviation at most: three of them before a count is off by one
BATCHES = 32  # of random texts, that show the norm of the head's gradient
SCALES = 1.3  # how far from theirs the update's norm may be


def read_labels(
    observation: Observation, mask: Tensor, generator: torch.Generator
) -> Tensor | None:
    """Return a label for each of B texts, ascending; None where the update does not tell them.

    Which text has which label is not told; it matters only where lengths differ, and then None is
    returned unless all labels are equal.
    """
    labels = batch_labels(observation, mask, generator)
    if labels is None or len(mask) == 1:
        return labels
    uneven = len(set(mask.sum(dim=1).tolist())) > 1 and len(set(labels.tolist())) > 1
    return None if uneven else labels


def batch_labels(
    observation: Observation, mask: Tensor, generator: torch.Generator
) -> Tensor | None:
    """Return the labels of B texts, ascending, whichever text has which; None: they are not told.

    Args:
        observation: of a classifier's update.
        mask: (B, T) true where a text has a token: as long are the random ones they are held to.
        generator: draws those.
    """
    texts = _random_texts(observation, mask, generator)
    name, states, logits = observation.model.decisions(observation.broadcast.parameters, texts)
    slope = find_slope(observation, states, len(mask))
    if slope is None:
        return None
    if len(mask) == 1:
        label = slope.label()
        return None if label is None else torch.tensor([label])
    shares, states = logits.cpu().double().softmax(dim=-1), states.cpu().double()
    counts = _counts(slope, shares, len(mask))
    weight = tensor_of(observation, name)
    if counts is None or weight is None or _rescaled(observation, weight):
        return None
    labels = torch.arange(len(counts)).repeat_interleave(counts)  # (B,)
    return labels if _likely(weight, labels, shares, states) else None


def _counts(slope: Slope, shares: Tensor, size: int) -> Tensor | None:
    """Return how many of ``size`` texts have each label (C,), where all counts are clear.

    Args:
        slope: the mean of p - y over the texts.
        shares: (N, C) p of random texts.
        size: B.
    """
    mean = shares.mean(dim=0)
    counts, clear = label_counts(mean, size * slope.values, size, NEAR)
    if not clear or counts.sum() != size:
        return None
    chances = shares.var(dim=0) * (size + size**2 / len(shares))
    squares = counts * (1 - mean).square() + (size - counts) * mean.square()  # sum of (p - y)^2
    doubt = chances + (size * slope.noise) ** 2 + squares * slope.spread**2
    return counts.long() if doubt.max() <= DOUBT**2 else None


def _rescaled(observation: Observation, weight: Tensor) -> bool:
    """Return whether a defense changed the scale, told of or seen in the head's gradient (C, D).

    Its columns sum to zero, so an entry that alone was zeroed is known. Top-k and rounding zero
    small ones; a mask any, and scales the others. Signs are all of one size.
    """
    sizes = weight[weight != 0].abs()
    alone = weight[:, (weight == 0).sum(dim=0) == 1].sum(dim=0).abs()
    masked = bool((alone > sizes.median()).any()) and not told(observation, Rescales)
    return scale_is_open(observation) or masked or bool(sizes.min() == sizes.max())


def _likely(weight: Tensor, labels: Tensor, shares: Tensor, states: Tensor) -> bool:
    """Return whether texts with ``labels`` can have a gradient of the head's norm.

    Args:
        weight: (C, D) the gradient of the head; entries that were zeroed do not count.
        labels: (B,)
        shares: (N, C) p of random texts.
        states: (N, D) what the head reads of them.
    """
    wrong = torch.eye(shares.shape[1], dtype=shares.dtype)[labels]  # (B, C)
    rows = (torch.arange(BATCHES)[:, None] + 7 * torch.arange(len(labels))) % len(states)  # (K, B)
    parts = [(shares[batch] - wrong).T @ states[batch] / len(labels) for batch in rows]  # (C, D)
    norms = torch.stack([part.norm() for part in parts])
    norm = weight.norm() / (weight != 0).double().mean().sqrt()
    return bool(norms.min() / SCALES <= norm <= SCALES * norms.max())


def _random_texts(
    observation: Observation, mask: Tensor, generator: torch.Generator
) -> tuple[Tokens, ...]:
    """Return texts of random tokens, as long as the batch's and with the same special tokens."""
    model = observation.model
    special = model.special  # once: the tokenizer gathers them anew each time
    known = range(min(model.vocabulary, len(model.tokenizer)))
    words = torch.tensor([token for token in known if token not in special])
    lengths, around = mask.sum(dim=1).tolist(), len(model.prefix) + len(model.suffix)
    texts = []
    for number in range(TEXTS):
        size = max(0, lengths[number % len(lengths)] - around)
        drawn = words[torch.randint(len(words), (size,), generator=generator)].tolist()
        texts.append((*model.prefix, *drawn, *model.suffix) or tuple(words[:1].tolist()))
    return tuple(texts)
