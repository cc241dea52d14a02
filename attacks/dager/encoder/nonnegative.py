"""Least squares under w >= 0, with few of many weights above zero."""

import torch
from scipy.optimize import nnls
from torch import Tensor

from attacks.dager import thresholds


def nonnegative(columns: Tensor, target: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
    """Return w >= 0 with about the least ||w columns - target||, and where it is positive.

    Lawson and Hanson's active set (SciPy's ``nnls``) looks at all columns before each one enters.
    Of thousands only a few hundred ever do: here they enter by blocks, those first that reduce the
    rest most, and the exact problem is solved among those.

    Args:
        columns: (N, K).
        target: (K,).
        support: (S,) int64: where to begin, such as the support of a similar problem.
    """
    lengths = columns.norm(dim=1).clamp_min(torch.finfo(columns.dtype).tiny)
    goal = target.double().cpu().numpy()
    weights, rest, support = torch.zeros_like(lengths), target, support.to(target.device)
    for turn in range(thresholds.ROUNDS):
        gains = columns @ rest / lengths
        gains[support] = 0.0
        entering = gains.topk(min(thresholds.COLUMNS, len(gains))).indices
        entering = entering[gains[entering] > thresholds.ENTER * target.norm()]
        if turn and not len(entering):
            break
        support = torch.cat([support, entering])
        if not len(support):  # of no columns, SciPy's nnls overwrites memory
            break
        try:
            matrix = columns[support].T.double().cpu().numpy()
            solved, _ = nnls(matrix, goal, maxiter=thresholds.PIVOTS)
        except RuntimeError:  # it went round in circles: what came before stands
            break
        weights = torch.zeros_like(lengths)
        weights[support] = torch.from_numpy(solved).to(weights)
        support = weights.nonzero().flatten()
        rest = target - weights[support] @ columns[support]
    return weights, weights.nonzero().flatten()
