"""A parameter's gradient, held as what its module read and what its output was told.

A linear map's gradient over N tokens is the sum of N outer products: its inner product with an
observed gradient and its norm need the N vectors on either side, never the (O, I) matrix. So many
candidates fit at once, and double back-propagation runs through the small vectors alone.

Source: Goodfellow, "Efficient Per-Example Gradient Computations", arXiv:1510.01799 (norms of linear
        maps); the inner product is the same algebra.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override


class Factor(Protocol):
    """One parameter's gradient for each of K candidates (1: combined with any K)."""

    def inner(self, observed: Tensor) -> Tensor:
        """Return the inner product with ``observed`` (the parameter's shape): (K,)."""
        ...

    def square(self) -> Tensor:
        """Return the squared norm: (K,)."""
        ...

    def cross(self, other: "Factor") -> Tensor:
        """Return the inner product with ``other``, a factor of the same parameter: (K,)."""
        ...

    def dense(self, shape: torch.Size) -> Tensor:
        """Return the gradient itself: (K, *shape)."""
        ...


@dataclass(frozen=True)
class Outer(Factor):
    """The gradient of a linear map's weight: (O, I), or (I, O) where it is ``flipped`` (Conv1D)."""

    inputs: Tensor  # (K, N, I) what the map read
    errors: Tensor  # (K, N, O) dL/d(its output)
    flipped: bool

    @override
    def inner(self, observed: Tensor) -> Tensor:
        weight = observed.T if self.flipped else observed  # (O, I)
        return ((self.errors @ weight) * self.inputs).sum(dim=(1, 2))

    @override
    def square(self) -> Tensor:
        return self.cross(self)

    @override
    def cross(self, other: Factor) -> Tensor:
        assert isinstance(other, Outer)
        alike = self.inputs @ other.inputs.mT  # (K, N, N')
        return (alike * (self.errors @ other.errors.mT)).sum(dim=(1, 2))

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        weight = self.errors.mT @ self.inputs  # (K, O, I)
        return weight.mT if self.flipped else weight


@dataclass(frozen=True)
class Rows(Factor):
    """The gradient of an embedding: each of N lookups adds its error to one row."""

    ids: Tensor  # (K, N) int64
    errors: Tensor  # (K, N, D)

    @override
    def inner(self, observed: Tensor) -> Tensor:
        return (self.errors * observed[self.ids]).sum(dim=(1, 2))

    @override
    def square(self) -> Tensor:
        return self.cross(self)

    @override
    def cross(self, other: Factor) -> Tensor:
        assert isinstance(other, Rows)
        same = self.ids[:, :, None] == other.ids[:, None, :]  # (K, N, N')
        return (same * (self.errors @ other.errors.mT)).sum(dim=(1, 2))

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        empty = self.errors.new_zeros(len(self.ids), *shape)
        places = self.ids[..., None].expand(self.errors.shape)
        return empty.scatter_add(1, places, self.errors)


class Sum(Factor):
    """What one factor (K = 1) and another one add up to; of the first, norms are computed once."""

    def __init__(self, same: Factor, other: Factor) -> None:
        self._same, self._other = same, other

    @override
    def inner(self, observed: Tensor) -> Tensor:
        return self._same.inner(observed) + self._other.inner(observed)

    @override
    def square(self) -> Tensor:
        cross = self._same.cross(self._other)
        return self._same.square() + 2 * cross + self._other.square()

    @override
    def cross(self, other: Factor) -> Tensor:
        return self._same.cross(other) + self._other.cross(other)

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        return self._same.dense(shape) + self._other.dense(shape)


class Once(Factor):
    """A factor that is asked for the same inner product and norm again and again."""

    def __init__(self, factor: Factor) -> None:
        self.factor = factor
        self._square: Tensor | None = None
        self._inner: dict[int, Tensor] = {}

    @override
    def inner(self, observed: Tensor) -> Tensor:
        if id(observed) not in self._inner:
            self._inner[id(observed)] = self.factor.inner(observed)
        return self._inner[id(observed)]

    @override
    def square(self) -> Tensor:
        if self._square is None:
            self._square = self.factor.square()
        return self._square

    @override
    def cross(self, other: Factor) -> Tensor:
        return self.factor.cross(other)

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        return self.factor.dense(shape)


@dataclass(frozen=True)
class Plain(Factor):
    """A gradient as it is: of a bias, of a norm's weight."""

    value: Tensor  # (K, *shape)

    @override
    def inner(self, observed: Tensor) -> Tensor:
        return (self.value * observed).flatten(1).sum(dim=1)

    @override
    def square(self) -> Tensor:
        return self.cross(self)

    @override
    def cross(self, other: Factor) -> Tensor:
        assert isinstance(other, Plain)
        return (self.value * other.value).flatten(1).sum(dim=1)

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        return self.value


def joined(factors: Sequence[Factor]) -> Factor:
    """Return the sum of one parameter's factors of one kind, each for one candidate."""
    first = factors[0]
    if isinstance(first, Plain):
        return Plain(torch.stack([one.value for one in factors if isinstance(one, Plain)]).sum(0))
    if isinstance(first, Rows):
        rows = [one for one in factors if isinstance(one, Rows)]
        return Rows(torch.cat([r.ids for r in rows], 1), torch.cat([r.errors for r in rows], 1))
    outer = [one for one in factors if isinstance(one, Outer)]
    inputs, errors = (torch.cat([getattr(o, n) for o in outer], 1) for n in ("inputs", "errors"))
    return Outer(inputs, errors, outer[0].flipped)
