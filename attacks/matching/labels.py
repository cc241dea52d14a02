"""Infer a classifier's labels from the gradient of its last map.

With cross-entropy, mean over B: dL/db = mean(p) - c / B for the counts c of the labels, and
dL/dW = sum (p - y) h^T / B. Where all hidden states h share a direction, so do the rows of dL/dW.

Source: Zhao et al., "iDLG", arXiv:2001.02610 (one label: the negative entry); the counts follow
        from the same formula with mean(p) taken from random texts.
"""

from typing import Any

import torch
from torch import Tensor, nn

from attacks.matching.observed import gradient_of
from fedsim.messages import Observation

TEXTS = 16  # random texts that show what the model says of any text


def read_labels(seen: Observation, mask: Tensor, generator: torch.Generator) -> Tensor | None:
    """Return a label for each of B texts, ascending; None where the update does not tell them.

    Which text has which label is not told; it matters only where lengths differ, and then None is
    returned unless all labels are equal.
    """
    name, head = _head(seen)
    told = [
        one
        for one in (f"{name}.bias", f"{name}.weight")
        if one in seen.update.tensors and seen.update.tensors[one].any()
    ]
    if not told:
        return None
    states, shares = _random_texts(seen, head, mask, generator)
    slope = gradient_of(seen, told[0])
    if slope.ndim == 2:  # no bias
        mean = states.mean(dim=0)
        slope = slope @ mean / mean.square().sum()  # (C,)
    size = len(mask)
    counts = (size * (shares - slope)).clamp_min(0.0)
    if size == 1:
        counts = torch.zeros_like(slope).index_fill(0, slope.argmin(), 1.0)
    whole = counts.floor()
    rest = (counts - whole).argsort(descending=True)
    for place in rest[: size - int(whole.sum())].tolist():
        whole[place] += 1
    labels = torch.arange(len(whole), device=whole.device).repeat_interleave(whole.long())[:size]
    uneven = len(set(mask.sum(dim=1).tolist())) > 1
    return None if len(labels) < size or (uneven and len(set(labels.tolist())) > 1) else labels


def _head(seen: Observation) -> tuple[str, nn.Linear]:
    """Return the name and module of the last map: to as many outputs as there are labels."""
    found = [
        (name, part)
        for name, part in seen.model.module.named_modules()
        if isinstance(part, nn.Linear)
        and f"{name}.weight" in dict(seen.broadcast.parameters)
        and part.out_features == seen.model.spec.num_labels
    ] or [
        (name, part)
        for name, part in seen.model.module.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == seen.model.spec.num_labels
    ]
    return found[-1]


def _random_texts(
    seen: Observation, head: nn.Linear, mask: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return what the head reads of random texts (N, D), and the mean of its shares (C,)."""
    model = seen.model
    module: Any = model.load(seen.broadcast.parameters)
    module.eval()
    length = int(mask.sum(dim=1).max())
    ids = torch.randint(model.vocabulary, (TEXTS, length), generator=generator).to(model.device)
    caught: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda part, given: caught.append(given[0]))
    try:
        words = module.get_input_embeddings().weight.detach()
        logits = model.logits(words[ids], torch.ones_like(ids, dtype=torch.bool))
    finally:
        hook.remove()
    return caught[0], logits.softmax(dim=-1).mean(dim=0)
