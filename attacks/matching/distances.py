"""How far dummies' gradients are from the observed one: L2, L2 + L1, cosine; and for defenses.

Every distance sums or averages over parameter tensors. L2 and cosine need inner products and norms
alone; L1, signs and masks need a gradient's entries.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from attacks.matching.factors import alike, stacked
from fedsim.models.factors import Factor, Outer, Plain


class Observed(dict[str, Tensor]):
    """A gradient to match, by parameter; its tensors are read once for their norms."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self._squares: dict[str, Tensor] = {}
        self._stacks: dict[tuple[str, ...], Tensor] = {}

    def squares(self, names: Iterable[str]) -> Tensor:
        """Return the squared norms of the tensors ``names``: (P,)."""
        for name in names:
            if name not in self._squares:
                self._squares[name] = self[name].square().sum()
        return torch.stack([self._squares[name] for name in names])

    def stack(self, names: tuple[str, ...]) -> Tensor:
        """Return the tensors ``names``, of one shape, as one; of one name the tensor itself."""
        if len(names) == 1:
            return self[names[0]]
        if names not in self._stacks:
            self._stacks[names] = torch.stack([self[name] for name in names])
        return self._stacks[names]


Distance = Callable[[Mapping[str, Factor], Observed], Tensor]
"""From K candidates' factors and the observed gradient to K distances."""


@dataclass(frozen=True, kw_only=True)
class L2:
    """sum_p ||G_p - O_p||^power (2: Zhu et al., "Deep Leakage from Gradients", 2019, eq. 4).

    Norms and an inner product tell it by cancellation: where tensors differ much in size (a head's
    gradient and an embedding's), it is true only of an observed gradient in float64.
    """

    power: int = 2
    weights: Mapping[str, float] = field(default_factory=dict)  # by parameter; absent: 1

    def __call__(self, factors: Mapping[str, Factor], observed: Observed) -> Tensor:
        """Return the distances: (K,)."""
        squares, inners = _products(factors, observed)
        parts = squares - 2 * inners + observed.squares(factors)
        if self.power == 1:
            parts = parts.clamp_min(1e-24).sqrt()
        return (parts * _weights(self.weights, factors, parts)).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class L2L1:
    """sum_p (||G_p - O_p||_2^power + w_p ||G_p - O_p||_1).

    TAG (Deng et al., EMNLP 2021, arXiv:2103.06819): power 2; GRAB (Feng et al., CCS 2024): 1.
    """

    l1: Mapping[str, float]  # w_p, by parameter
    power: int = 2

    def __call__(self, factors: Mapping[str, Factor], observed: Observed) -> Tensor:
        """Return the distances: (K,)."""
        total: Any = 0.0
        for name, factor in factors.items():
            square, absolute = differences(factor, observed[name])
            l2 = square if self.power == 2 else (square + 1e-24).sqrt()
            total = total + l2 + self.l1[name] * absolute
        result: Tensor = total
        return result


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """mean_p (1 - <G_p, O_p> / (||G_p|| ||O_p||)) (LAMP, NeurIPS 2022, arXiv:2202.08827, code).

    Attributes:
        weights: of each parameter in the mean; absent: 1.
    """

    weights: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, factors: Mapping[str, Factor], observed: Observed) -> Tensor:
        """Return the distances: (K,), in [0, 2]."""
        squares, inners = _products(factors, observed)
        sizes = squares.clamp_min(1e-30).sqrt() * observed.squares(factors).sqrt()
        weights = _weights(self.weights, factors, sizes)
        shares = weights / weights.sum()
        return ((1.0 - inners / sizes.clamp_min(1e-30)) * shares).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class WrongSigns:
    """Where signs alone were sent: sum_i max(0, -g_i sign(o_i))^2, of g at unit norm per tensor.

    Source: Wu et al., "Learning to Invert", arXiv:2210.10880v1, App. A.1; there a vanishing
    dummy gradient is a minimum too, so here each tensor is divided by its own norm first.
    """

    l1: float = 0.0  # weight of sum_i max(0, -g_i sign(o_i)), for attacks that use L1

    def __call__(self, factors: Mapping[str, Factor], observed: Observed) -> Tensor:
        """Return the distances: (K,), each tensor's first term in [0, 1]."""
        total: Any = 0.0
        for name, factor in factors.items():
            gradient = factor.dense(observed[name].shape).flatten(1)
            unit = gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-30)
            wrong = (-unit * observed[name].flatten().sign()).clamp_min(0.0)
            total = total + wrong.square().sum(dim=1) + self.l1 * wrong.sum(dim=1)
        result: Tensor = total / len(factors)
        return result


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Another distance on the coordinates that were sent, where the others were set to zero.

    Source: as ``WrongSigns``, for pruning.
    """

    distance: Distance

    def __call__(self, factors: Mapping[str, Factor], observed: Observed) -> Tensor:
        """Return the distances: (K,)."""
        kept = {name: _sent(factor, observed[name]) for name, factor in factors.items()}
        return self.distance(kept, observed)


@dataclass(frozen=True)
class _Sent(Plain):
    """A factor's entries (K, n) at the flat ``places`` (n,) where the observed one is not zero."""

    places: Tensor

    @override
    def inner(self, observed: Tensor) -> Tensor:
        return self.value @ observed.flatten()[self.places]

    @override
    def double(self) -> "_Sent":
        return _Sent(self.value.double(), self.places)

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        full = self.value.new_zeros(len(self.value), shape.numel())
        return full.index_copy(1, self.places, self.value).view(-1, *shape)


def _sent(factor: Factor, observed: Tensor) -> Factor:
    places = observed.flatten().nonzero().flatten()
    return _Sent(entries(factor, places, observed.shape), places)


def _weights(given: Mapping[str, float], names: Iterable[str], like: Tensor) -> Tensor:
    """Return the weights of the tensors ``names``, 1 where none is given: (P,)."""
    listed = [given.get(name, 1.0) for name in names]
    return torch.tensor(listed, dtype=like.dtype, device=like.device)


def _products(factors: Mapping[str, Factor], observed: Observed) -> tuple[Tensor, Tensor]:
    """Return ||G_p||^2 and <G_p, O_p> of K candidates, in the observed gradient's dtype: (K, P)."""
    squares: dict[str, Tensor] = {}
    inners: dict[str, Tensor] = {}
    for names in _groups(factors):
        factor = stacked([factors[name] for name in names])
        target = observed.stack(names)
        factor = factor.double() if target.dtype == torch.float64 else factor
        shape = (len(names), -1)
        squares |= zip(names, factor.square().view(shape), strict=True)
        inners |= zip(names, factor.inner(target).view(shape), strict=True)
    in_order = [torch.stack([of[name] for name in factors], dim=1) for of in (squares, inners)]
    return in_order[0], in_order[1]


def _groups(factors: Mapping[str, Factor]) -> list[tuple[str, ...]]:
    """Return the parameters in groups that are taken together: of one candidate those alike.

    A step of a descent is a thousand small operations; of many candidates each is large enough.
    """
    groups: dict[Hashable, list[str]] = {}
    for name, factor in factors.items():
        groups.setdefault(alike(name, factor) if factor.count == 1 else name, []).append(name)
    return [tuple(names) for names in groups.values()]


def entries(factor: Factor, places: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient's entries at the flat ``places`` (n,) of its ``shape``: (K, n).

    Few entries of a linear map's gradient are gathered, sum over N of two numbers each.
    """
    if isinstance(factor, Outer) and 8 * len(places) < shape.numel():
        first, second = places // shape[1], places % shape[1]
        outputs, inputs = (second, first) if factor.flipped else (first, second)
        return (factor.errors[:, :, outputs] * factor.inputs[:, :, inputs]).sum(dim=1)
    return factor.dense(shape).flatten(1)[:, places]


def differences(factor: Factor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Return ||G - O||^2 and ||G - O||_1 of K candidates: (K,) each."""
    if isinstance(factor, Outer):
        weight = observed.T if factor.flipped else observed
        result: tuple[Tensor, Tensor] = _OuterDifference.apply(  # type: ignore[no-untyped-call]
            factor.inputs, factor.errors, weight
        )
        return result
    rest = (factor.dense(observed.shape) - observed).flatten(1)
    return rest.square().sum(dim=1), rest.abs().sum(dim=1)


class _OuterDifference(torch.autograd.Function):
    """||E^T A - O||^2 and ||E^T A - O||_1, one candidate at a time: its matrix is not kept.

    Differentiated once; the two products with the difference and its signs are all it keeps.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, errors: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        squares, absolutes, kept = [], [], []
        slopes = any(ctx.needs_input_grad[:2])
        for a, e in zip(inputs, errors, strict=True):
            rest = torch.addmm(observed, e.T, a, beta=-1)  # (O, I)
            squares.append(rest.square().sum() if rest.dtype == torch.float64 else rest.norm() ** 2)
            absolutes.append(rest.norm(p=1))
            if slopes:
                l2 = (rest @ a.T, rest.T @ e.T)  # (O, N), (I, N)
                rest = rest.sign_()
                kept.append((*l2, rest @ a.T, rest.T @ e.T))
        ctx.kept = kept
        return torch.stack(squares), torch.stack(absolutes)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        inputs, errors = [], []
        for l2, l1, (r_a, r_e, s_a, s_e) in zip(slopes[0], slopes[1], ctx.kept, strict=True):
            errors.append((2 * l2 * r_a + l1 * s_a).T)
            inputs.append((2 * l2 * r_e + l1 * s_e).T)
        return torch.stack(inputs), torch.stack(errors), None
