"""Send a low-rank approximation of each matrix of the update.

Source:      Eckart & Young, "The approximation of one matrix by another of lower rank",
             Psychometrika 1936; for gradients Wang et al., "ATOMO", NeurIPS 2018,
             arXiv:1806.04090, and Vogels, Karimireddy, Jaggi, "PowerSGD", NeurIPS 2019,
             arXiv:1905.13727.
Guarantee:   none; this is compression, and any protection is incidental.
Deviations:  the best approximation by a full SVD, where PowerSGD takes one step of the power
             method and feeds the error back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from defenses.base import Defense, norm
from defenses.encoding import Encoding, plain
from fedsim.effects import Effect, Truncates
from fedsim.errors import DefenseFailed
from fedsim.types import Parameters

SLACK = 1e-2  # for the rounding of float16 wires; of float32 it is 1e-6


@dataclass(frozen=True, kw_only=True)
class TruncatedSVD(Defense):
    """Keep the ``rank`` strongest singular directions of each matrix; leave what is no matrix.

    A matrix that its factors would not make smaller travels whole.
    """

    rank: int = 4  # > 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be > 0, got {self.rank}")

    @override
    def effects(self) -> tuple[Effect, ...]:
        return (Truncates(rank=self.rank),)

    @override
    def protect(self, tensors: Parameters, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: low_rank(tensor, self.rank) if self.shortens(tensor) else tensor.clone()
            for name, tensor in tensors.items()
        }

    @override
    def audit(self, clean: Parameters, sent: Parameters) -> dict[str, float]:
        """Check that each matrix has no more directions than ``rank``, and the right ones.

        Raises:
            DefenseFailed: one has more, or what is missing is not orthogonal to what was sent, as
                it is for the best approximation.
        """
        figures = super().audit(clean, sent)
        for name, tensor in sent.items():
            if not self.shortens(tensor):
                continue
            whole, rest = norm({name: clean[name]}), norm({name: clean[name] - tensor})
            if beyond(tensor, self.rank) > SLACK * whole:
                raise DefenseFailed(f"{self!r} sends {name!r} at more than rank {self.rank}")
            if abs(whole**2 - rest**2 - norm({name: tensor}) ** 2) > SLACK * whole**2:
                raise DefenseFailed(f"{self!r} sends {name!r} less well than rank {self.rank} can")
        return figures

    @override
    def encoded(self, sent: Parameters, before: Encoding) -> Encoding:
        """Return the factors' encoding, or ``before`` where that is shorter still.

        The factors follow from what came before: whoever has that can compute them.
        """
        whole = plain(sent)
        short = [tensor for tensor in sent.values() if self.shortens(tensor)]
        saved = sum(tensor.numel() - self.rank * sum(tensor.shape) for tensor in short)
        return min(whole.kept(whole.values - saved, 0), before, key=lambda encoding: encoding.bytes)

    def shortens(self, tensor: Tensor) -> bool:
        """Return whether two factors of ``rank`` hold fewer numbers than ``tensor``."""
        return tensor.ndim == 2 and self.rank * sum(tensor.shape) < tensor.numel()


def low_rank(matrix: Tensor, rank: int) -> Tensor:
    """Return the matrix of at most ``rank`` that is nearest to ``matrix`` in Frobenius norm."""
    tall = _tall(matrix)
    directions = torch.linalg.eigh(tall.T @ tall).eigenvectors[:, -rank:]  # (K, rank), ascending
    near: Tensor = tall @ directions @ directions.T
    return (near if matrix.shape[0] >= matrix.shape[1] else near.T).to(matrix.dtype)


def beyond(matrix: Tensor, rank: int) -> float:
    """Return how far ``matrix`` is, in Frobenius norm, from the nearest one of ``rank``."""
    tall = _tall(matrix)
    squares = torch.linalg.eigvalsh(tall.T @ tall)[:-rank]
    return float(squares.clamp_min(0.0).sum().sqrt())


def _tall(matrix: Tensor) -> Tensor:
    """Return ``matrix`` with its longer side first, in float64.

    The Gram matrix of the shorter side gives the directions, at 1e-8 of the largest at the least:
    an embedding of 50,000 rows needs no more than that.
    """
    return matrix.double() if matrix.shape[0] >= matrix.shape[1] else matrix.double().T
