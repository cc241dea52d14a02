"""Whether what a map of the last block read of a text lies in the span of the client's update.

Source: ours, as DAGER's theorem 5.1 (Petrov et al., NeurIPS 2024, arXiv:2405.15586) at a map that
        reads the pooled place alone: its gradient's rank is the number of texts, so texts are told
        apart exactly while there are fewer of them than the width, however many tokens they have.
        ProjRes (arXiv:2604.21197) tests one place of an adapter likewise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.matching import layer_of
from attacks.membership.features import Site, batches, places, watched_loss
from fedsim.messages import Texts
from fedsim.models import ModelAdapter
from fedsim.types import Parameters

FULL = 0.9  # of a map's width: a span of more rows tells nothing
GAP = 3.0  # between the last singular value that counts and the next
SEEN = 1e-9  # of the strongest place's error: a place that the loss does not reach has none


@dataclass(frozen=True)
class PooledSpan:
    """What a map read, as its gradient spans it."""

    site: Site
    basis: Tensor  # (I, k) float64
    gap: float  # between the last singular value that counts and the next

    def residuals(self, model: ModelAdapter, weights: Parameters, texts: Texts) -> Tensor:
        """Return how far off the span is what is read of each text, at most: (N,), in [0, 1]."""
        far = torch.zeros(len(texts), dtype=torch.float64)
        for rows, read, told in reads(model, weights, texts, self.site):
            away = read - (read @ self.basis) @ self.basis.mT
            share = away.norm(dim=-1) / read.norm(dim=-1).clamp_min(1e-30)  # (n, T)
            strength = told.norm(dim=-1)
            counted = strength > SEEN * strength.max(dim=1, keepdim=True).values
            far[rows] = (share * counted).max(dim=1).values
        return far


def span_of(
    model: ModelAdapter, update: Parameters, sites: Sequence[Site], texts: int
) -> PooledSpan | None:
    """Return the span of the last block's map that reads one place a text; None: there is none."""
    best: PooledSpan | None = None
    for site in sites:
        if layer_of(model, site.name) != model.layers - 1 or not 0 < texts:
            continue
        gradient = update[site.name].double()
        gradient = gradient.mT if site.flipped else gradient  # (O, I)
        if texts > FULL * min(gradient.shape):
            continue
        _, values, rows = torch.linalg.svd(gradient, full_matrices=False)
        gap = float(values[texts - 1] / values[texts].clamp_min(1e-30))
        if gap > (GAP if best is None else best.gap):
            best = PooledSpan(site, rows[:texts].mT, gap)
    return best


def reads(
    model: ModelAdapter, weights: Parameters, texts: Texts, site: Site
) -> list[tuple[list[int], Tensor, Tensor]]:
    """Return what ``site`` read of the texts and was told: rows, (n, T, I), (n, T, O), float64."""
    module, made = model.load(weights).eval(), []
    for rows in batches(texts):
        loss, runs = watched_loss(model, module, texts.take(rows), [site])
        ((read, result),) = runs[0]
        (told,) = torch.autograd.grad(loss, [result])
        size = len(rows)
        made.append((rows, places(read.detach(), size).double(), places(told, size).double()))
    return made
