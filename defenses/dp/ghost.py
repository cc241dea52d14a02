"""Norms of examples' gradients, and their clipped sum, from what maps read and their slopes.

Source: Goodfellow, arXiv:1510.01799 (a map's gradient is sum_t x_t b_t^T, so its square is
        sum_tu <x_t, x_u> <b_t, b_u>); Li et al., ICLR 2022, arXiv:2110.05679, sec. 4 (embeddings:
        <x_t, x_u> says whether two tokens are the same); Bu et al., ICML 2023, arXiv:2210.00038
        (the same slopes serve the clipped sum).

A head tied to the embedding adds sum_t b_t h_t^T to sum_u e_id(u) s_u^T before the norm. The square
of that sum has a cross term besides: 2 sum_tu b_t[id(u)] <h_t, s_u>, of slopes that are there.

No example's gradient of a map is ever held. Norm layers' are: a vector an example. The factors are
those that a matching attack has of its dummies: :mod:`fedsim.models.factors`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from fedsim.models.factors import LINEAR, Factor, Lookups, Outer, factor, holders, known

Sums = dict[nn.Parameter, Tensor]


@dataclass(frozen=True)
class Call:
    """One run of a module over B examples of T places each; detached."""

    part: nn.Module
    slope: Tensor  # (B, T, D_out), d(sum of losses) / d(output)
    factors: Mapping[nn.Parameter, Factor]  # each example's gradient of what trains

    @classmethod
    def of(cls, part: nn.Module, read: Tensor, slope: Tensor) -> "Call":
        """Return the run in which ``part`` read (B, T, D_in), or token ids (B, T)."""
        trained = {n: p for n, p in part.named_parameters(recurse=False) if p.requires_grad}
        return cls(part, slope, {p: factor(part, n, read, slope) for n, p in trained.items()})


def squared_norms(calls: Sequence[Call]) -> Tensor:
    """Return the squared L2 norm (B,) of each example's gradient over all that ``calls`` train."""
    parts = [reduce(torch.add, [g.square() for g in call.factors.values()]) for call in calls]
    made = [(p, g) for call in calls for p, g in call.factors.items()]
    heads = {p: g for p, g in made if isinstance(g, Outer)}
    parts += [_cross(g, heads[p]) for p, g in made if isinstance(g, Lookups) and p in heads]
    return torch.stack(parts).sum(0).clamp(min=0.0)  # rounding can leave -0.0001 of a 0


def add_sums(calls: Sequence[Call], weights: Tensor, sums: Sums) -> None:
    """Add sum_i f_i g_i to ``sums``, g_i of each parameter that ``calls`` train, f (B,)."""
    for call in calls:
        for p, gradient in call.factors.items():
            total = _total(call, p, gradient, weights)
            sums[p] = sums[p].add_(total) if p in sums else total


def owners(module: nn.Module) -> list[nn.Module]:
    """Return the modules that compute with parameters that train."""
    held = [part for p, some in holders(module).items() if p.requires_grad for part, _ in some]
    return list(dict.fromkeys(held))


def untellable(module: nn.Module) -> str | None:
    """Return why the norms of examples' gradients would be wrong, or None."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            return f"{name} is a batch norm, which mixes the examples"
    for p, some in holders(module).items():
        if not p.requires_grad:
            continue
        for part, _ in some:
            if not known(part):
                return (
                    f"no rule for the gradients of {type(part).__name__}; known: "
                    f"{', '.join(kind.__name__ for kind in LINEAR)}, Embedding, LayerNorm, RMSNorms"
                )
        kinds = ", ".join(sorted(type(part).__name__ for part, _ in some))
        if len(some) > 1 and kinds != "Embedding, Linear":
            return f"no rule for weights that {kinds} share"
    return None


def _cross(lookup: Lookups, head: Outer) -> Tensor:
    """Return 2 <g_lookup, g_head> (B,) of a weight that an embedding and a linear map share."""
    ids = lookup.ids[:, None, :].expand(-1, head.errors.shape[1], -1)  # (B, T, U)
    meet = head.errors.gather(2, ids)  # b_t[id(u)]
    return 2.0 * (meet * (head.inputs @ lookup.errors.transpose(1, 2))).sum((1, 2))


def _total(call: Call, p: nn.Parameter, gradient: Factor, weights: Tensor) -> Tensor:
    """Return sum_i f_i g_i of one parameter, without any g_i of a map or an embedding."""
    if isinstance(gradient, Outer):
        read, slope = gradient.inputs.flatten(0, 1), _weighted(gradient.errors, weights)
        return read.T @ slope if gradient.flipped else slope.T @ read
    if isinstance(gradient, Lookups):
        slope = _weighted(gradient.errors, weights)
        return torch.zeros_like(p).index_add_(0, gradient.ids.flatten(), slope)
    if isinstance(call.part, LINEAR):  # its bias: one sum over all places
        return _weighted(call.slope, weights).sum(0)
    return weights @ gradient.dense(p.shape)


def _weighted(slope: Tensor, weights: Tensor) -> Tensor:
    """Return slopes (B, T, D) times their examples' weights (B,), one row a place: (B T, D)."""
    return (slope * weights.view(-1, 1, 1)).flatten(0, 1)
