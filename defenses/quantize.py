"""Send fewer bits an entry.

Source:      Alistarh et al., "QSGD", NeurIPS 2017, arXiv:1610.02132, sec. 3.1: stochastic rounding
             to evenly spaced levels, unbiased; here the scale is each tensor's largest magnitude,
             as in the int8 of deep-learning hardware. Stochastic rounding between neighbouring
             floats: Gupta et al., "Deep Learning with Limited Numerical Precision", ICML 2015,
             arXiv:1502.02551, sec. 3.
Guarantee:   none; this is compression, and any protection is incidental.
Deviations:  QSGD scales by a bucket's norm.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from defenses.base import Defense
from defenses.encoding import Encoding
from fedsim.effects import Effect, Rounds
from fedsim.errors import ClientFailure, DefenseFailed
from fedsim.types import Parameters

WireNumber = Literal["float16", "bfloat16", "int8", "int4"]
Rounding = Literal["nearest", "stochastic"]
BITS = {"float16": 16, "bfloat16": 16, "int8": 8, "int4": 4}
LEVELS = {"int8": 127, "int4": 7}  # on each side of zero: -128 and -8 stay unused
SCALE_BITS = 32
SLACK = 1e-6  # for float32's own rounding of what was rounded


@dataclass(frozen=True, kw_only=True)
class Quantize(Defense):
    """Round each entry to ``dtype``: a float, or an integer times a scale of its tensor."""

    dtype: WireNumber = "int8"
    rounding: Rounding = "nearest"  # or stochastic: up or down by chance, right on average

    def __post_init__(self) -> None:
        for name, kind in (("dtype", WireNumber), ("rounding", Rounding)):
            if getattr(self, name) not in get_args(kind):
                allowed = ", ".join(get_args(kind))
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")

    @override
    def effects(self) -> tuple[Effect, ...]:
        return (Rounds(bits=BITS[self.dtype]),)

    @override
    def protect(self, tensors: Parameters, generator: torch.Generator) -> dict[str, Tensor]:
        if self.dtype not in LEVELS:
            self._check_range(tensors)
        return {name: self._rounded(t, generator).to(t) for name, t in tensors.items()}

    def _check_range(self, tensors: Parameters) -> None:
        most = torch.finfo(getattr(torch, self.dtype)).max
        for name, tensor in tensors.items():
            if (tensor.abs() > most).any():
                failure = ClientFailure(
                    f"quantize: an entry is too large, {self.dtype} ends at {most:g}; take "
                    "bfloat16, or lower training.learning_rate"
                )
                failure.add_note(f"one of {name!r} is {tensor.abs().max():g}")
                raise failure

    @override
    def audit(self, clean: Parameters, sent: Parameters) -> dict[str, float]:
        """Measure what was rounded to zero; check that the error is below a step of the encoding.

        Raises:
            DefenseFailed: an entry is farther from the update's, or no value of the encoding.
        """
        figures = super().audit(clean, sent)
        for name, tensor in sent.items():
            exact, error = clean[name].double(), (tensor.double() - clean[name].double()).abs()
            if (error > self.bound(exact)).any():
                raise DefenseFailed(f"{self!r} sends {name!r} with an error of {error.max():g}")
            if self.dtype in LEVELS and len(torch.unique(tensor)) > 2 * LEVELS[self.dtype] + 1:
                raise DefenseFailed(f"{self!r} sends {name!r} with too many levels")
        before = sum(int(tensor.count_nonzero()) for tensor in clean.values())
        after = sum(int(tensor.count_nonzero()) for tensor in sent.values())
        return {**figures, "lost": 1 - after / before if before else 0.0}

    @override
    def encoded(self, sent: Parameters, before: Encoding) -> Encoding:
        scales = SCALE_BITS * len(sent) if self.dtype in LEVELS else 0
        return before.rounded(BITS[self.dtype], scales)

    def bound(self, exact: Tensor) -> Tensor:
        """Return the largest error that rounding each entry of ``exact`` (float64) may make."""
        whole = 0.5 if self.rounding == "nearest" else 1.0
        if self.dtype in LEVELS:
            largest = exact.abs().max() if exact.numel() else exact.sum()
            step = (largest / LEVELS[self.dtype]).expand_as(exact)
        else:
            kind = torch.finfo(getattr(torch, self.dtype))
            step = (exact.abs() * kind.eps).clamp_min(kind.smallest_normal * kind.eps)
        return whole * step * (1 + SLACK) + SLACK * exact.abs()

    def _rounded(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        """Return ``tensor`` with only the values that its encoding has, in float64."""
        exact = tensor.double()
        chance = None
        if self.rounding == "stochastic":
            chance = torch.rand(exact.shape, generator=generator, dtype=torch.float64).to(exact)
        if self.dtype in LEVELS:
            return to_levels(exact, LEVELS[self.dtype], chance)
        return to_floats(exact, getattr(torch, self.dtype), chance)


def to_levels(exact: Tensor, levels: int, chance: Tensor | None) -> Tensor:
    """Return ``exact`` rounded to multiples of its largest magnitude over ``levels``.

    Args:
        exact: float64.
        levels: on each side of zero.
        chance: one number in [0, 1) an entry, to round stochastically; None: to the nearest.
    """
    largest = exact.abs().max() if exact.numel() else exact.sum()
    if not largest > 0:
        return exact
    scale = (largest / levels).float().double()  # what travels is a float32
    steps = exact / scale
    whole = steps.round() if chance is None else (steps + chance).floor()
    return whole.clamp(-levels, levels) * scale


def to_floats(exact: Tensor, dtype: torch.dtype, chance: Tensor | None) -> Tensor:
    """Return ``exact`` rounded to floats of ``dtype``; arguments as in :func:`to_levels`."""
    if chance is None:
        return exact.to(dtype).double()
    magnitude = exact.abs()
    below = magnitude.to(dtype)
    bits = below.view(torch.int16) - (below.double() > magnitude).to(torch.int16)
    down = bits.view(dtype).double()  # towards zero: of positive floats, bits rise with the value
    above = (bits + 1).view(dtype).double()
    up = chance < (magnitude - down) / (above - down)
    return torch.where(up, above, down) * exact.sign()
