"""Span algebra: which vectors lie in the span that a weight's gradient spans.

A gradient is dL/dW = X^T dL/dY, so its columns lie in the span of the inputs X, and equal it when
there are fewer inputs than dimensions (DAGER, arXiv:2405.15586, theorem 5.1). What is outside is
noise: rounding, other local steps, a defense. Rank and tolerance come from the spectra alone, so
neither the update's scale nor its dtype need be known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SPARE = 20  # dimensions assumed free of signal (DAGER's rank cap, fig. 3); an eighth where D is small
EDGE = 10.0  # noise reaches up to this many times its level at SPARE; measured: 3 to 8
GAP = 2.5  # noise falls smoothly: neighbouring singular values differ by far less than this factor
RESOLUTION = 1e-6  # of a distance between float32 hidden states
SKETCH = 32  # directions of the coarse filter; relative std of its distances: sqrt(2 / 32) = 25 %


@dataclass(frozen=True, kw_only=True)
class Span:
    """The span of a layer's inputs, as its gradient shows it.

    Attributes:
        complement: (D, D - rank) float32, orthonormal; inputs are orthogonal to it.
        rank: the number of independent inputs; 0: nothing stands out of the noise.
        noise: the noise relative to the weakest input, as singular values; 0 to 1.
        blurred: no gap parts signal from noise: there may be more inputs than the rank.
    """

    complement: Tensor
    rank: int
    noise: float
    blurred: bool

    def distance(self, vectors: Tensor) -> Tensor:
        """Return the sine of the angle between each of ``vectors`` (..., D) and the span: (...)."""
        outside = (vectors @ self.complement).norm(dim=-1)
        return outside / vectors.norm(dim=-1).clamp_min(torch.finfo(vectors.dtype).tiny)

    def tolerance(self, unrelated: Tensor) -> float:
        """Return the distance below which a vector counts as inside.

        It lies midway, on a logarithmic scale, between what noise does to the weakest input
        (||noise|| / its singular value, Wedin) and the distance of vectors that are not inside.

        Args:
            unrelated: (N, D) hidden states of which most are not inputs.
        """
        outside = self.distance(unrelated).median().item()
        return float(min((max(self.noise, RESOLUTION) * outside) ** 0.5, outside / 2))


def find_span(gradients: Sequence[Tensor]) -> Span:
    """Return the span of the common inputs of several weights.

    The gradients are stacked after each is divided by its own noise: rounding is relative to a
    weight's own gradient, and q's and k's are far smaller than v's, so that in the plain stack v's
    rounding would bury what q and k say of a weak input.

    Args:
        gradients: (D, K) each, input axis first, any float dtype.
    """
    levels = noise_levels(gradients)
    if not any(levels):
        return Span(complement=torch.eye(len(gradients[0])), rank=0, noise=1.0, blurred=False)
    scaled = [g.double() / level for g, level in zip(gradients, levels, strict=True) if level]
    stack = torch.cat(scaled, dim=1)  # (D, K)
    left, values, _ = torch.linalg.svd(stack, full_matrices=stack.shape[0] > stack.shape[1])
    level = values[_quiet(values)]
    rank, blurred = _rank(values, level)
    if rank == 0:
        return Span(complement=left.float(), rank=0, noise=1.0, blurred=False)
    noise = level * EDGE**0.5 if blurred else values[rank]
    return Span(
        complement=left[:, rank:].float(),
        rank=rank,
        noise=min(1.0, (noise / values[rank - 1]).item()),
        blurred=blurred,
    )


def _rank(values: Tensor, level: Tensor) -> tuple[int, bool]:
    """Return how many of the singular ``values`` are signal, and whether no gap shows it.

    The widest gap just above the noise is where signal ends; without one, noise's usual reach is.
    """
    ratios = values[:-1] / values[1:].clamp_min(level / EDGE)
    ratios[values[1:] > EDGE**2 * level] = 0.0  # a gap within the signal
    widest = int(ratios.argmax())
    if ratios[widest] >= GAP:
        return widest + 1, False
    return int((values > EDGE * level).sum()), True


def noise_levels(gradients: Sequence[Tensor]) -> list[float]:
    """Return the level of noise in each of ``gradients`` (D, K); 0 for one that is all zeros.

    It is the singular value beyond which ``SPARE`` dimensions are left. A gradient narrower than D
    may have no such dimension; its level is taken in proportion to its size, as rounding's is.
    """
    spectra = [torch.linalg.svdvals(gradient.double()) for gradient in gradients]
    wide = [gradient.shape[1] >= gradient.shape[0] for gradient in gradients]
    shares = [
        (values[_quiet(values)] / values[0]).item()
        for values, is_wide in zip(spectra, wide, strict=True)
        if is_wide and values[0]
    ]
    share = max(shares, default=torch.finfo(gradients[0].dtype).eps)
    tiny = torch.finfo(torch.float64).eps
    return [
        max(values[_quiet(values)].item() if is_wide else share * values[0].item(), tiny * values[0].item())
        for values, is_wide in zip(spectra, wide, strict=True)
    ]


def _quiet(values: Tensor) -> int:
    """Return the index of a singular value that signal does not reach."""
    return len(values) - 1 - min(SPARE, len(values) // 8)


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A cheap view of a span: a few random directions of its complement, to discard with."""

    directions: Tensor  # (D, k), orthonormal
    scale: float  # from the sketched distance to an unbiased estimate of the distance

    def distance(self, vectors: Tensor) -> Tensor:
        """Return an estimate of the distance of each of ``vectors`` (..., D): (...)."""
        outside = (vectors @ self.directions).norm(dim=-1) * self.scale
        return outside / vectors.norm(dim=-1).clamp_min(torch.finfo(vectors.dtype).tiny)


def sketch(span: Span, generator: torch.Generator) -> Sketch:
    """Return a sketch of ``span`` with at most ``SKETCH`` directions."""
    size = span.complement.shape[1]
    kept = min(SKETCH, size)
    mix, _ = torch.linalg.qr(torch.randn(size, kept, generator=generator))  # (D - rank, k)
    mix = mix.to(span.complement.device)
    return Sketch(directions=span.complement @ mix, scale=(size / kept) ** 0.5)
