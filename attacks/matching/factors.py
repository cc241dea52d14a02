"""A parameter's gradient, held as what its module read and what its output was told.

A linear map's gradient over N tokens is the sum of N outer products: its inner product with an
observed gradient and its norm need the N vectors on either side, never the (O, I) matrix. So many
candidates fit at once, and double back-propagation runs through the small vectors alone.

Source: Goodfellow, "Efficient Per-Example Gradient Computations", arXiv:1510.01799 (norms of linear
        maps); the inner product is the same algebra.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override


class Factor(Protocol):
    """One parameter's gradient for each of K candidates."""

    @property
    def count(self) -> int:
        """K."""
        ...

    def inner(self, observed: Tensor) -> Tensor:
        """Return the inner product with ``observed``: (K,).

        It has the parameter's shape, or is (K, *shape): one for each candidate.
        """
        ...

    def square(self) -> Tensor:
        """Return the squared norm: (K,)."""
        ...

    def dense(self, shape: torch.Size) -> Tensor:
        """Return the gradient itself: (K, *shape)."""
        ...

    def double(self) -> "Factor":
        """Return the same in float64."""
        ...


@dataclass(frozen=True)
class Outer(Factor):
    """The gradient of a linear map's weight: (O, I), or (I, O) where it is ``flipped`` (Conv1D)."""

    inputs: Tensor  # (K, N, I) what the map read
    errors: Tensor  # (K, N, O) dL/d(its output)
    flipped: bool

    @property
    @override
    def count(self) -> int:
        return len(self.inputs)

    @override
    def inner(self, observed: Tensor) -> Tensor:
        weight = observed.mT if self.flipped else observed  # (O, I)
        return (torch.matmul(self.errors, weight) * self.inputs).sum(dim=(1, 2))

    @override
    def square(self) -> Tensor:
        alike = self.inputs @ self.inputs.mT  # (K, N, N)
        return (alike * (self.errors @ self.errors.mT)).sum(dim=(1, 2))

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        weight = self.errors.mT @ self.inputs  # (K, O, I)
        return weight.mT if self.flipped else weight

    @override
    def double(self) -> "Outer":
        return Outer(self.inputs.double(), self.errors.double(), self.flipped)


@dataclass(frozen=True)
class Rows(Factor):
    """The gradient of an embedding: each of N lookups adds its error to one row."""

    ids: Tensor  # (K, N) int64
    errors: Tensor  # (K, N, D)

    @property
    @override
    def count(self) -> int:
        return len(self.ids)

    @override
    def inner(self, observed: Tensor) -> Tensor:
        return (self.errors * observed[self.ids]).sum(dim=(1, 2))

    @override
    def square(self) -> Tensor:
        same = self.ids[:, :, None] == self.ids[:, None, :]  # (K, N, N)
        return (same * (self.errors @ self.errors.mT)).sum(dim=(1, 2))

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        empty = self.errors.new_zeros(len(self.ids), *shape)
        places = self.ids[..., None].expand(self.errors.shape)
        return empty.scatter_add(1, places, self.errors)

    @override
    def double(self) -> "Rows":
        return Rows(self.ids, self.errors.double())


@dataclass(frozen=True)
class Plain(Factor):
    """A gradient as it is: of a bias, of a norm's weight."""

    value: Tensor  # (K, *shape)

    @property
    @override
    def count(self) -> int:
        return len(self.value)

    @override
    def inner(self, observed: Tensor) -> Tensor:
        return (self.value * observed).flatten(1).sum(dim=1)

    @override
    def square(self) -> Tensor:
        return self.value.square().flatten(1).sum(dim=1)

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        return self.value

    @override
    def double(self) -> "Plain":
        return Plain(self.value.double())


def alike(name: str, factor: Factor) -> Hashable:
    """Return what parameters' factors have in common that :func:`stacked` takes together."""
    if isinstance(factor, Outer):
        return factor.inputs.shape, factor.errors.shape, factor.flipped
    return factor.value.shape if type(factor) is Plain else name


def stacked(factors: Sequence[Factor]) -> Factor:
    """Return factors that are alike as one: each is a candidate of its own."""
    first = factors[0]
    if len(factors) == 1:
        return first
    if isinstance(first, Plain):
        return Plain(torch.cat([one.value for one in factors if isinstance(one, Plain)]))
    outer = [one for one in factors if isinstance(one, Outer)]
    inputs, errors = (torch.cat([getattr(o, n) for o in outer]) for n in ("inputs", "errors"))
    return Outer(inputs, errors, outer[0].flipped)


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
