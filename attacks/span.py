"""Span algebra: which vectors lie in the span that a weight's gradient spans.

A gradient is dL/dW = X^T dL/dY, so its columns lie in the span of the inputs X, and equal it when
there are fewer inputs than dimensions (DAGER, arXiv:2405.15586, theorem 5.1). What is outside is
noise: rounding, other local steps, a defense. Rank and tolerance come from the spectra alone, so
neither the update's scale nor its dtype need be known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import scipy.linalg
import torch
from torch import Tensor

SPARE = (
    20  # dimensions assumed free of signal (DAGER's rank cap, fig. 3); an eighth where D is small
)
EDGE = 10.0  # noise reaches up to this many times its level at SPARE; measured: 3 to 8
GAP = 2.5  # noise falls smoothly: neighbouring singular values differ by far less than this factor
RESOLUTION = 1e-4  # distances below it are never told apart: float32 hidden states differ by 1e-6
ROUNDING = 1 / 256  # machine epsilons, of the largest singular value: the least level of noise
OWN = 32  # epsilons of float64, of the largest singular value: what the algebra here leaves itself
SKETCH = 32  # directions of the coarse filter; relative std of its distances: sqrt(2 / 32) = 25 %


@dataclass(frozen=True, kw_only=True)
class Span:
    """The span of a layer's inputs, as its gradient shows it.

    Attributes:
        basis: (D, rank) float32, orthonormal: the span.
        complement: (D, D - rank) float32, orthonormal: what inputs are orthogonal to.
        noise: (rank,) float32: how far noise turns each direction of the basis, in radians.
        rank: the number of independent inputs; 0: nothing stands out of the noise.
        blurred: no gap parts signal from noise: there may be more inputs than the rank.
        map: (D', D): what vectors pass before they are compared; None: nothing.
    """

    basis: Tensor
    complement: Tensor
    noise: Tensor
    rank: int
    blurred: bool
    map: Tensor | None = None

    @property
    def saturated(self) -> bool:
        """Whether inputs fill all dimensions but those kept for noise: none can be told apart."""
        return self.rank >= len(self.basis) - min(SPARE, len(self.basis) // 8)

    def seen(self, vectors: Tensor) -> Tensor:
        """Return ``vectors`` (..., D') as the span compares them: (..., D)."""
        return vectors if self.map is None else vectors @ self.map

    def distance(self, vectors: Tensor) -> Tensor:
        """Return the sine of the angle between each of ``vectors`` (..., D) and the span: (...)."""
        vectors = self.seen(vectors)
        return length(vectors @ self.complement) / length(vectors)

    def expected(self, vectors: Tensor) -> Tensor:
        """Return the distance that noise alone would give each of ``vectors`` (..., D): (...).

        To first order an input z = U a is seen at the distance ||E V S^-1 a||, where U S V^T is the
        gradient and E its noise (Wedin, BIT 1972): far for what only weak directions carry.
        Measured against the true inputs of GPT-2 updates: right within a factor of 1.4.
        """
        vectors = self.seen(vectors)
        return length((vectors @ self.basis) * self.noise) / length(vectors)


def length(vectors: Tensor) -> Tensor:
    """Return the norms of ``vectors`` (..., D), never zero: (...)."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return norms.clamp_min(torch.finfo(vectors.dtype).tiny)


def find_span(gradients: Sequence[Tensor]) -> Span:
    """Return the span of the common inputs of several weights.

    The gradients are stacked after each is divided by its own noise: rounding is relative to a
    weight's own gradient, and q's and k's are far smaller than v's, so that in the plain stack v's
    rounding would bury what q and k say of a weak input.

    Args:
        gradients: (D, K) each, input axis first, any float dtype.
    """
    levels = noise_levels(gradients)
    width = len(gradients[0])
    if not any(levels):
        return _span(torch.eye(width), torch.zeros(width), width, 0, False)
    scaled = [g.double() / level for g, level in zip(gradients, levels, strict=True) if level]
    stack = torch.cat(scaled, dim=1)  # (D, K)
    square = torch.linalg.qr(stack.T, mode="r").R if stack.shape[1] > width else stack.T
    left, values, _ = torch.linalg.svd(square.T, full_matrices=width > stack.shape[1])
    rank, blurred = _rank(values, values[_quiet(values)].clamp_min(1.0))  # 1: the unit of levels
    return _span(left, values, stack.shape[1], rank, blurred)


def _span(left: Tensor, values: Tensor, columns: int, rank: int, blurred: bool) -> Span:
    """Return the span of the first ``rank`` of the left singular vectors ``left`` (D, D)."""
    rest = values[rank:]
    spread = (
        rest.square().mean().sqrt() if len(rest) else torch.zeros(())
    )  # of one direction's noise
    seen = (len(left) - rank) / columns  # the share of it that turns a direction out of the span
    return Span(
        basis=left[:, :rank].float(),
        complement=left[:, rank:].float(),
        noise=(spread * seen**0.5 / values[:rank]).float(),
        rank=rank,
        blurred=blurred,
    )


def join(spans: Sequence[Span], maps: Sequence[Tensor]) -> Span:
    """Return the spans (of dimension R each) of what inputs become under ``maps`` (D, R) as one.

    An input lies in it when each of its images lies in that image's own span.
    """
    scaled = [one.float() / torch.linalg.matrix_norm(one.float()) for one in maps]
    return Span(
        basis=_diagonal([one.basis for one in spans]),
        complement=_diagonal([one.complement for one in spans]),
        noise=torch.cat([one.noise for one in spans]),
        rank=max(one.rank for one in spans),
        blurred=any(one.blurred for one in spans),
        map=torch.cat(scaled, dim=1),
    )


def _diagonal(blocks: Sequence[Tensor]) -> Tensor:
    whole: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return whole


def _rank(values: Tensor, level: Tensor) -> tuple[int, bool]:
    """Return how many of the singular ``values`` are signal, and whether no gap shows it.

    Signal ends at the last gap near the noise, or without one at noise's usual reach. A direction
    too many costs little, since the span stays far smaller than D; one too few loses a token.
    """
    ratios = values[:-1] / values[1:].clamp_min(level / EDGE)
    near = (values[:-1] > GAP * level) & (values[1:] <= EDGE**2 * level)
    gaps = (near & (ratios >= GAP)).nonzero().flatten()
    if len(gaps):
        return int(gaps[-1]) + 1, False
    return int((values > EDGE * level).sum()), True


def noise_levels(gradients: Sequence[Tensor]) -> list[float]:
    """Return the level of noise in each of ``gradients`` (D, K); 0 for one that is all zeros.

    It is about the singular value beyond which ``SPARE`` dimensions are left, or what rounding
    leaves at the least. A gradient narrower than D may have no such dimension; its level is taken
    in proportion to its size, as rounding's is.
    """
    spectra = [_rough_spectrum(gradient) for gradient in gradients]
    wide = [gradient.shape[1] >= gradient.shape[0] for gradient in gradients]
    shares = [
        (values[_quiet(values)] / values[0]).item()
        for values, is_wide in zip(spectra, wide, strict=True)
        if is_wide and values[0]
    ]
    share = max(shares, default=0.0)
    least = max(
        ROUNDING * torch.finfo(gradients[0].dtype).eps, OWN * torch.finfo(torch.float64).eps
    )
    return [
        max(
            values[_quiet(values)].item() if is_wide else share * values[0].item(),
            least * values[0].item(),
        )
        for values, is_wide in zip(spectra, wide, strict=True)
    ]


def _rough_spectrum(gradient: Tensor) -> Tensor:
    """Return the singular values of ``gradient`` to a small factor: a pivoted QR's diagonal.

    It costs a quarter of the values themselves (Chan, Linear Algebra and its Applications 1987).
    """
    square = gradient.double().cpu().numpy()
    triangle = scipy.linalg.qr(square, mode="r", pivoting=True, check_finite=False)[0]
    return torch.from_numpy(abs(triangle.diagonal()))


def _quiet(values: Tensor) -> int:
    """Return the index of a singular value that signal does not reach."""
    return len(values) - 1 - min(SPARE, len(values) // 8)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Says which vectors lie in a span, by a threshold of each vector's own.

    Attributes:
        span: the span.
        outside: the distance of vectors that are not inside, the median of random tokens'.
        length: the norm of such a vector, as the span sees it: the median.
        factor: how many times the expected distance still counts as inside.
    """

    span: Span
    outside: float
    length: float
    factor: float

    @property
    def widest(self) -> float:
        """The largest threshold that any vector can have."""
        noise = self.span.noise.max().item() if self.span.rank else 0.0
        return min(max(self.factor * noise, RESOLUTION), self.outside / 2)

    def excess(self, vectors: Tensor) -> Tensor:
        """Return each of ``vectors``' (..., D) distance over its threshold: below 1 is inside."""
        threshold = (self.factor * self.span.expected(vectors)).clamp_min(RESOLUTION)
        return self.span.distance(vectors) / threshold.clamp_max(self.outside / 2)

    def inside(self, vectors: Tensor) -> Tensor:
        """Return which of ``vectors`` (..., D) lie in the span: (...), bool."""
        return self.excess(vectors) < 1.0


def open_gate(span: Span, unrelated: Tensor, factor: float) -> Gate:
    """Return a gate to ``span``; most of the hidden states ``unrelated`` (N, D) are not inside."""
    return Gate(
        span=span,
        outside=span.distance(unrelated).median().item(),
        length=length(span.seen(unrelated)).median().item(),
        factor=factor,
    )


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A cheap view of a span: a few random directions of its complement, to discard with."""

    directions: Tensor  # (D, k); orthonormal where the span has no map
    scale: float  # from the length of what they see to an unbiased estimate of the whole's

    def distance(self, vectors: Tensor) -> Tensor:
        """Return an estimate of the distance of each of ``vectors`` (..., D): (...)."""
        return length(vectors @ self.directions) * self.scale / length(vectors)


def sketch(span: Span, generator: torch.Generator, size: int = SKETCH) -> Sketch:
    """Return a sketch of ``span`` with at most ``size`` directions."""
    whole = span.complement.shape[1]
    kept = min(size, whole)
    mix, _ = torch.linalg.qr(torch.randn(whole, kept, generator=generator))  # (D - rank, k)
    directions = span.complement @ mix.to(span.complement.device)
    if span.map is not None:
        directions = span.map @ directions
    return Sketch(directions=directions, scale=(whole / kept) ** 0.5)
