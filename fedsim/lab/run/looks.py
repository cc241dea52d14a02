"""What an update's values tell of how it was made, without a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from fedsim.types import Parameters

LEAST = 512  # entries of a matrix from which on its values tell something
ADAM = 4.0
"""Kurtosis below which a delta looks like Adam's, which moves each entry about as far as any other.

ADAM_MEASURED
"""
SPARSE = 0.5  # share of zeros from which on most of an update was left out
VALUES = 257  # distinct values of a matrix that 8 bits can tell apart, and zero


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What the values of an update look like.

    Attributes:
        kurtosis: the median over matrices; 1 where all entries are of one size, 3 of normal ones.
        zeros: the median share of entries that are zero.
        values: the median number of distinct sizes of entries.
        finite: whether all entries are numbers.
    """

    kurtosis: float
    zeros: float
    values: float
    finite: bool

    def adam(self, kind: str) -> bool:
        """Return whether it looks like some steps of Adam."""
        return kind == "delta" and self.finite and 0 < self.kurtosis < ADAM and self.values > VALUES

    def words(self, kind: str) -> list[str]:
        """Return what hides texts in it, in words; [] where nothing shows."""
        if not self.finite:
            return ["the update holds NaN or infinite values"]
        told = []
        if self.values <= 1:
            told.append("all entries of a matrix are of one size: signs alone were sent")
        elif self.values <= VALUES:
            told.append(f"a matrix has {self.values:.0f} sizes of entries: it was quantised")
        if self.zeros > SPARSE:
            told.append(f"{self.zeros:.0%} of a matrix is zero: most was left out (top-k, a mask)")
        if self.adam(kind):
            told.append(
                "the update's entries are of much the same size, as Adam's steps are: it is no sum "
                "of gradients, so dager and matching attacks read nothing"
            )
        return told


def looks_of(tensors: Parameters) -> Looks:
    """Return what the matrices of an update's blocks look like; embeddings are mostly untouched."""
    some = _matrices(tensors)
    finite = all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    if not some or not finite:
        return Looks(kurtosis=0.0, zeros=0.0, values=float(VALUES + 1), finite=finite)
    return Looks(
        kurtosis=median(map(_kurtosis, some)),
        zeros=median(float((matrix == 0).double().mean()) for matrix in some),
        values=median(_sizes(matrix) for matrix in some),
        finite=True,
    )


def _matrices(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    found = [t.detach().float() for t in tensors.values() if t.dim() == 2 and t.numel() >= LEAST]
    tallest = max((t.shape[0] for t in found), default=0)
    blocks = [t for t in found if t.shape[0] < tallest or t.shape[0] <= 8 * t.shape[1]]
    return [t for t in blocks or found if t.any()]


def _kurtosis(matrix: Tensor) -> float:
    """Return the fourth moment over the square of the second, of the entries that moved."""
    values = matrix[matrix != 0].double()
    values = values / values.abs().max()
    return float((values**4).mean() / (values**2).mean() ** 2)


def _sizes(matrix: Tensor) -> int:
    return int(torch.unique(matrix[matrix != 0].abs().flatten()[: 512 * LEAST]).numel())
