"""How well an update aligns with each text's own gradient, beyond what public texts explain.

Source: ours; measured in docs/results/membership.md. The
        coordinates are those that Adam divides by (Kingma & Ba, ICLR 2015), whitened on both sides
        as Shampoo does (Gupta et al., ICML 2018, arXiv:1802.09568); the statistic is the matched
        filter <y, S^-1 a> / sqrt(a' S^-1 a), with the covariance S of public texts' gradients and a
        ridge, in its dual form.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

FLOOR = 0.01  # of the median: Adam's scale of an entry is no less
SIDES = 0.01  # ridge of a side's covariance, of its mean
RIDGE = 0.01  # of the covariance of texts, of its mean


def statistics(
    gradients: Sequence[Tensor],
    update: Sequence[Tensor],
    known: Sequence[int],
    *,
    batch_size: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the matched filter of each text at each site, and what of it is unlike: (N, S) each.

    Unlike is the share of a text's square that those of ``known`` texts do not explain. Float64.

    Args:
        gradients: of N texts, (N, O, I) a site.
        update: what aligns with them where a text was trained on, (O, I) a site.
        known: the rows whose statistics are taken: texts that nobody trained on.
        batch_size: of the steps that Adam took, which divides by what a batch's gradient is wont to
            be; None: its steps were multiples of gradients.
    """
    rows, columns, shares = torch.tensor(known), [], []
    for made, sent in zip(gradients, update, strict=True):
        mean = made[rows].mean(dim=0)
        centred = (made - mean) / _adam_scale(made[rows], mean, batch_size)
        centred = centred / centred[rows].square().mean().sqrt().clamp_min(1e-30)
        whitened, target = _sides(centred, sent, rows)
        flat = whitened.flatten(1)
        inner, aligned = (flat @ flat.mT).double(), (flat @ target.flatten()).double()
        weights, left = _unexplained(inner, rows)
        columns.append((aligned - weights.mT @ aligned[rows]) / left.clamp_min(1e-20).sqrt())
        shares.append(left / inner.diagonal().clamp_min(1e-30))
    return torch.stack(columns, dim=1), torch.stack(shares, dim=1)


def _unexplained(inner: Tensor, public: Tensor) -> tuple[Tensor, Tensor]:
    """Return how public rows add up to each row, (M, N), and what is left of its square, (N,)."""
    across = inner[public]  # (M, N)
    own = across[:, public]
    ridge = RIDGE * own.diagonal().mean() * torch.eye(len(public), dtype=own.dtype)
    weights = torch.cholesky_solve(across, torch.linalg.cholesky(own + ridge))
    return weights, inner.diagonal() - (across * weights).sum(dim=0)


def _adam_scale(known: Tensor, mean: Tensor, batch_size: int | None) -> Tensor:
    """Return what Adam divides each entry by: the root of a batch's mean square gradient."""
    if batch_size is None:
        return torch.ones(())
    scale = (mean.square() + known.var(dim=0) / batch_size).sqrt()
    return scale.clamp_min(FLOOR * float(scale.median()) + 1e-30)


def _sides(centred: Tensor, sent: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return texts' gradients and the update, whitened from the left and from the right."""
    known = centred[rows]
    left = _root(torch.einsum("nor,npr->op", known, known))
    right = _root(torch.einsum("nor,nos->rs", *(2 * [left @ known])))
    whitened = left @ centred @ right
    size = whitened[rows].square().mean().sqrt().clamp_min(1e-30)
    return whitened / size, left @ sent @ right / size


def _root(covariance: Tensor) -> Tensor:
    """Return the inverse root of a covariance with a ridge."""
    values, vectors = torch.linalg.eigh(covariance.double())
    values = values.clamp_min(0) + SIDES * values.mean().clamp_min(1e-30)
    root: Tensor = (vectors * values.rsqrt()) @ vectors.mT
    return root.to(covariance.dtype)
