"""The span of a layer's inputs, by the spectrum of its weights' gradients.

A gradient is dL/dW = X^T dL/dY, so its columns lie in the span of the inputs X, and equal it when
there are fewer inputs than dimensions (DAGER, arXiv:2405.15586, theorem 5.1). What is outside is
noise: rounding, other local steps, a defense. Rank and tolerance come from the spectra alone, so
neither the update's scale nor its dtype need be known.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.dager import thresholds
from attacks.dager.span import Span


def find_span(gradients: Sequence[Tensor], *, drifting: bool = False, wide: bool = True) -> Span:
    """Return the span of the common inputs of several weights.

    The gradients are stacked after each is divided by its own noise: rounding is relative to a
    weight's own gradient, and q's and k's are far smaller than v's, so that in the plain stack v's
    rounding would bury what q and k say of a weak input.

    Args:
        gradients: (D, K) each, input axis first, any float dtype.
        drifting: they are sums over steps in which the inputs moved, so that no gap is to be
            trusted.
        wide: of such sums keep nearly all directions, even where a gap tells which are signal.
    """
    width = len(gradients[0])
    span = find_few(gradients) if width >= thresholds.LARGE and not drifting else None
    if span is not None:
        return span
    levels = noise_levels(gradients)
    if not any(levels):
        none = torch.zeros(0, device=gradients[0].device)
        return _span(torch.eye(width).to(none), none, none.sum(), width, 0)
    scaled = [g.double() / level for g, level in zip(gradients, levels, strict=True) if level]
    stack = torch.cat(scaled, dim=1)  # (D, K)
    square = torch.linalg.qr(stack.T, mode="r").R if stack.shape[1] > width else stack.T
    left, values, _ = torch.linalg.svd(square.T, full_matrices=width > stack.shape[1])
    level = values[_quiet(values)].clamp_min(1.0)  # 1: the unit of levels
    rank, blurred = _rank(values, level, drifting)
    vague = blurred or (drifting and wide)
    kept = min(_wide(width, rank) if vague else rank, width - 1)
    if blurred and not drifting:  # what noise fills alike tells nothing
        kept = min(kept, max(rank, int((values > thresholds.BULK * level).sum())))
    rest = values[kept:].square()
    spread = rest.mean().sqrt() if len(rest) else rest.sum()
    columns = stack.shape[1]
    # Noise's last values are even, those of inputs that fill all dimensions fall on: so it is of a
    # matrix that is not square.
    falls = columns >= 2 * width and bool(values[-1] < thresholds.EVEN_LAST * level)
    full = blurred and not drifting and falls
    return _span(left, values[:kept], spread, columns, rank, blurred, drifting, full)


def _wide(width: int, rank: int) -> int:
    """Return how many directions to keep where no gap tells signal from noise: nearly all.

    One too many costs little: an unrelated vector is as far from what is left as from more, while
    an input that only weak directions carry is lost with them. Measured on FedAvg deltas of GPT-2
    at real size (16 sentences of Rotten Tomatoes): true inputs come closer up to the last.
    """
    spare = _spare(width)
    return min(max(rank, width - thresholds.WIDE_SPARE * spare), width - spare)


def find_few(gradients: Sequence[Tensor]) -> Span | None:
    """Return the span if it is clear from a part of the dimensions, the fewer the faster, or None.

    A random mixture of the columns of a matrix spans what stands out of its noise, when it has more
    columns than that has dimensions (Halko, Martinsson, Tropp, SIAM Review 2011, algorithm 4.1).
    """
    blocks = [block.double() for block in gradients if block.any()]
    if not blocks:
        return None
    floor = thresholds.ROUNDING * torch.finfo(gradients[0].dtype).eps
    for part in thresholds.PARTS:
        span = _few(blocks, len(blocks[0]) // part, floor)
        if span is not None:
            return span
    return None


def _few(blocks: Sequence[Tensor], size: int, floor: float) -> Span | None:
    """Return the span of ``blocks`` (D, K) if ``size`` dimensions show it and noise beside it."""
    width, columns = len(blocks[0]), sum(block.shape[1] for block in blocks)
    generator = torch.Generator().manual_seed(0)  # any will do: the span is the same
    count = thresholds.PROBES
    mixed, probes = [], []  # (D, size): what a range is made of; (D, count): what tests it
    for block in blocks:
        mix = torch.randn(block.shape[1], size + count, generator=generator).to(block)
        images = (block @ mix) / torch.linalg.matrix_norm(block)
        mixed.append(images[:, :size])
        probes.append(images[:, size:] / count**0.5)
    basis = torch.linalg.qr(_sum(mixed)).Q
    rests = [torch.linalg.matrix_norm(_outside(probe, basis)).item() for probe in probes]
    weights = [
        (block.shape[1] * (width - size)) ** 0.5 / max(rest, floor * (width - size) ** 0.5)
        for block, rest in zip(blocks, rests, strict=True)
    ]  # make the noise of each one a number
    weigh = zip(mixed, weights, strict=True)
    basis = torch.linalg.qr(_sum([image * weight for image, weight in weigh])).Q
    weigh = zip(probes, weights, strict=True)
    outside = _outside(_sum([probe * weight for probe, weight in weigh]), basis)  # (D, count)
    if not _even(outside):
        return None
    inside = torch.cat(
        [
            basis.T @ block * (weight / torch.linalg.matrix_norm(block))
            for block, weight in zip(blocks, weights, strict=True)
        ],
        dim=1,
    )  # (size, K)
    square = torch.linalg.qr(inside.T, mode="r").R
    left, values, _ = torch.linalg.svd(square.T)
    total = torch.linalg.matrix_norm(outside).square()
    level = (total / (width - size)).sqrt() / thresholds.RANGE_LEVEL
    rank, blurred = _rank(values, level)
    if blurred or rank > size - thresholds.SPARE:
        return None
    left, _ = torch.linalg.qr(basis @ left[:, :rank], mode="complete")
    spread = ((total + values[rank:].square().sum()) / (width - rank)).sqrt()
    return _span(left, values[:rank], thresholds.RANGE_NOISE * spread, columns, rank)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(dim=0)


def _outside(vectors: Tensor, basis: Tensor) -> Tensor:
    """Return ``vectors`` (D, P) less their parts in the span of the orthonormal ``basis``."""
    rest: Tensor = vectors - basis @ (basis.T @ vectors)
    return rest


def _even(outside: Tensor) -> bool:
    """Return whether ``outside`` (D, P), mixtures of what a range leaves, looks like noise.

    Inputs that the range had no room for are few and uneven, noise fills all dimensions.
    """
    values = torch.linalg.svdvals(outside)
    return bool(values[0] <= thresholds.EVEN * values[-1])


def _span(
    left: Tensor,
    values: Tensor,
    spread: Tensor,
    columns: int,
    rank: int,
    blurred: bool = False,
    drifting: bool = False,
    full: bool = False,
) -> Span:
    """Return the span of the first of the left singular vectors ``left`` (D, D).

    Args:
        left: the strongest come first.
        values: (N,) the singular values of those that are kept.
        spread: the root mean square of the others.
        columns: K.
        rank: how many directions are inputs', as far as one can tell.
        blurred: no gap shows the rank.
        drifting: see ``Span``.
        full: inputs fill all dimensions, so that the rank says nothing.
    """
    width, kept = len(left), len(values)
    turning = (width - kept) / columns  # the share of noise that turns a direction out of the span
    return Span(
        basis=left[:, :kept].float(),
        complement=left[:, kept:].float(),
        noise=(spread * turning**0.5 / values).float(),
        rank=rank,
        blurred=blurred or drifting,
        drifting=drifting,
        floor=(spread / values[0]).item() if kept else 0.0,
        faintest=(values[-1] / spread.clamp_min(1e-300)).item() if kept else 0.0,
        saturated=full or rank > most_inputs(width),
    )


def _rank(values: Tensor, level: Tensor, drifting: bool = False) -> tuple[int, bool]:
    """Return how many of the singular ``values`` are signal, and whether no gap shows it.

    Signal ends at the last gap near the noise, or without one at noise's usual reach. A direction
    too many costs little, since the span stays far smaller than D; one too few loses a token: so
    where noise is flat a gap far above it is none, unless inputs drift or it is huge.
    """
    edge = thresholds.EDGE
    ratios = values[:-1] / values[1:].clamp_min(level / edge)
    rise = values[_quiet(values, thresholds.RISE_AT)] / level
    reach = edge if drifting else min(edge, max(thresholds.RISE, float(rise.square())))
    far = (values[1:] > edge * reach * level) & (ratios < thresholds.HUGE_GAP)
    near = (values[:-1] > thresholds.GAP * level) & ~far
    near &= values[1:] <= thresholds.NEAR_NOISE * level
    gaps = (near & (ratios >= thresholds.GAP)).nonzero().flatten()
    if len(gaps):
        return int(gaps[-1]) + 1, False
    return int((values > edge * level).sum()), True


def noise_levels(gradients: Sequence[Tensor]) -> list[float]:
    """Return the level of noise in each of ``gradients`` (D, K); 0 for one that is all zeros.

    It is the singular value beyond which ``SPARE`` dimensions are left, or what rounding
    leaves at the least. A gradient narrower than D may have no such dimension; its level is taken
    in proportion to its size, as rounding's is. One of few values was rounded to their steps.
    """
    spectra = [torch.linalg.svdvals(gradient.double()) for gradient in gradients]
    wide = [gradient.shape[1] >= gradient.shape[0] for gradient in gradients]
    shares = [
        (values[_quiet(values)] / values[0]).item()
        for values, is_wide in zip(spectra, wide, strict=True)
        if is_wide and values[0]
    ]
    share = max(shares, default=0.0)
    rounding, exact = torch.finfo(gradients[0].dtype).eps, torch.finfo(torch.float64).eps
    least = max(thresholds.ROUNDING * rounding, thresholds.ROUNDING_64 * exact)
    return [
        max(
            values[_quiet(values)].item() if is_wide else share * values[0].item(),
            least * values[0].item(),
            steps_level(gradient),
        )
        for gradient, values, is_wide in zip(gradients, spectra, wide, strict=True)
    ]


def steps_level(gradient: Tensor) -> float:
    """Return the level of noise in a gradient (D, K) that was rounded to few evenly spaced values.

    Where most entries became zero there are dimensions without noise, which would tell of none at
    all. An error spread evenly over a step has its standard deviation, step / sqrt(12).
    """
    some = gradient.flatten()[:: max(1, gradient.numel() // thresholds.STEPPED)]
    if len(torch.unique(some)) > thresholds.LEVELS:
        return 0.0
    magnitudes: Tensor = torch.unique(gradient.abs())
    if not 1 < len(magnitudes) <= thresholds.LEVELS:
        return 0.0
    noise = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0)).to(gradient)
    values = torch.linalg.svdvals(noise.double())
    return float(magnitudes.diff().min() / 12**0.5 * values[_quiet(values)])


def _quiet(values: Tensor, times: int = 1) -> int:
    """Return the index of a singular value that signal does not reach, ``times`` so far up."""
    return len(values) - 1 - times * _spare(len(values))


def most_inputs(width: int) -> int:
    """Return how many inputs of so many dimensions can be told from noise; with more it hides."""
    return width - _spare(width) - 1


def _spare(width: int) -> int:
    """Return how many of ``width`` dimensions are assumed free of signal."""
    return min(thresholds.SPARE, width // thresholds.SPARE_PART)
