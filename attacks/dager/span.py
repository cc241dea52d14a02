"""Spans that inputs lie in, and which vectors lie in one as far as noise lets one tell."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.dager import thresholds


@dataclass(frozen=True, kw_only=True)
class Span:
    """The span of a layer's inputs, as its gradient shows it.

    Attributes:
        basis: (D, N) float32, orthonormal: the span.
        complement: (D, D - N) float32, orthonormal: what inputs are orthogonal to.
        noise: (N,) float32: how far noise turns each direction of the basis, in radians.
        rank: the number of independent inputs; 0: nothing stands out of the noise.
        blurred: no gap parts signal from noise: there may be more inputs than the rank, so the
            span is wider than that, and what noise does to an input is not known.
        drifting: what blurs it is that the inputs moved from step to step.
        floor: the level of noise, of the strongest direction.
        faintest: the weakest direction, of the level of noise.
        saturated: inputs fill all dimensions but those kept for noise: there may be more.
        map: (D', D): what vectors pass before they are compared; None: nothing.
    """

    basis: Tensor
    complement: Tensor
    noise: Tensor
    rank: int
    blurred: bool
    drifting: bool = False
    floor: float = 0.0
    faintest: float = 0.0
    saturated: bool = False
    map: Tensor | None = None

    def mapped(self, vectors: Tensor) -> Tensor:
        """Return ``vectors`` (..., D') as the span compares them: (..., D)."""
        return vectors if self.map is None else vectors @ self.map

    def distance(self, vectors: Tensor) -> Tensor:
        """Return the sine of the angle between each of ``vectors`` (..., D) and the span: (...)."""
        vectors = self.mapped(vectors)
        return length(vectors @ self.complement) / length(vectors)

    def expected(self, vectors: Tensor) -> Tensor:
        """Return the distance that noise alone would give each of ``vectors`` (..., D): (...).

        To first order an input z = U a is seen at the distance ||E V S^-1 a||, where U S V^T is the
        gradient and E its noise (Wedin, BIT 1972): far for what only weak directions carry.
        Measured against the true inputs of GPT-2 updates: right within a factor of 1.4.
        """
        vectors = self.mapped(vectors)
        return length((vectors @ self.basis) * self.noise) / length(vectors)


def length(vectors: Tensor) -> Tensor:
    """Return the norms of ``vectors`` (..., D), never zero: (...)."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return norms.clamp_min(torch.finfo(vectors.dtype).tiny)


def join(spans: Sequence[Span], maps: Sequence[Tensor]) -> Span:
    """Return the spans (of dimension R each) of what inputs become under ``maps`` (D, R) as one.

    An input lies in it when each of its images lies in that image's own span.
    """
    scaled = [weight.float() / torch.linalg.matrix_norm(weight.float()) for weight in maps]
    return Span(
        basis=_diagonal([span.basis for span in spans]),
        complement=_diagonal([span.complement for span in spans]),
        noise=torch.cat([span.noise for span in spans]),
        rank=max(span.rank for span in spans),
        blurred=any(span.blurred for span in spans),
        drifting=any(span.drifting for span in spans),
        floor=max(span.floor for span in spans),
        faintest=min(span.faintest for span in spans),
        saturated=any(span.saturated for span in spans),
        map=torch.cat(scaled, dim=1),
    )


def _diagonal(blocks: Sequence[Tensor]) -> Tensor:
    whole: Tensor = torch.block_diag(*blocks)
    return whole


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Says which vectors lie in a span, by a threshold of each vector's own.

    Attributes:
        span: the span.
        outside: the distance of vectors that are not inside, the median of random tokens'.
        length: the norm of such a vector, as the span sees it: the median.
        factor: how many times the expected distance still counts as inside.
        share: of ``outside``: the threshold where noise is not known.
    """

    span: Span
    outside: float
    length: float
    factor: float
    share: float

    @property
    def vague(self) -> bool:
        """Whether noise is not known, or too strong to tell a weak input from an unrelated one."""
        return self.span.blurred or self._noise > self.share * self.outside

    @property
    def _noise(self) -> float:
        return self.factor * self.span.noise.max().item() if self.span.rank else 0.0

    @property
    def widest(self) -> float:
        """The largest threshold that any vector can have."""
        return self.share * self.outside if self.vague else max(self._noise, thresholds.RESOLUTION)

    def excess(self, vectors: Tensor) -> Tensor:
        """Return each of ``vectors``' (..., D) distance over its threshold: below 1 is inside."""
        if self.span.blurred:
            return self.span.distance(vectors) / (self.share * self.outside)
        threshold = (self.factor * self.span.expected(vectors)).clamp_min(thresholds.RESOLUTION)
        return self.span.distance(vectors) / threshold

    def inside(self, vectors: Tensor) -> Tensor:
        """Return which of ``vectors`` (..., D) lie in the span: (...), bool."""
        return self.excess(vectors) < 1.0


def open_gate(span: Span, unrelated: Tensor, factor: float, share: float) -> Gate:
    """Return a gate to ``span``; most of the hidden states ``unrelated`` (N, D) are not inside."""
    return Gate(
        span=span,
        outside=span.distance(unrelated).median().item(),
        length=length(span.mapped(unrelated)).median().item(),
        factor=factor,
        share=share,
    )


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A cheap view of a span: a few random directions of its complement, to discard with."""

    directions: Tensor  # (D, k); orthonormal where the span has no map
    scale: float  # from the length of what they see to an unbiased estimate of the whole's

    def distance(self, vectors: Tensor) -> Tensor:
        """Return an estimate of the distance of each of ``vectors`` (..., D): (...)."""
        return length(vectors @ self.directions) * self.scale / length(vectors)


def sketch(span: Span, generator: torch.Generator, size: int) -> Sketch:
    """Return a sketch of ``span`` with at most ``size`` directions."""
    whole = span.complement.shape[1]
    kept = min(size, whole)
    mix, _ = torch.linalg.qr(torch.randn(whole, kept, generator=generator))  # (D - rank, k)
    directions = span.complement @ mix.to(span.complement.device)
    if span.map is not None:
        directions = span.map @ directions
    return Sketch(directions=directions, scale=(whole / kept) ** 0.5)
