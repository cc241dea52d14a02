"""Send a random subset of the update's entries.

Source:      Konečný et al., "Federated Learning: Strategies for Improving Communication
             Efficiency", 2016, arXiv:1610.05492, sec. 4, "subsampling": a fresh mask a client and
             round, scaled so that the average is unbiased.
Guarantee:   none. The mask is no secret: its seed travels, or the zeros show it.
Deviations:  none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from defenses.base import Defense
from defenses.encoding import Encoding
from fedsim.effects import Effect, Rescales, Zeroes
from fedsim.errors import DefenseFailed
from fedsim.types import Parameters

SEED_BITS = 64


@dataclass(frozen=True, kw_only=True)
class RandomMask(Defense):
    """Keep each entry with probability ``fraction``, divided by it; zero the others."""

    fraction: float = 0.1  # in (0, 1]; 1 sends the update unchanged

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")

    @override
    def effects(self) -> tuple[Effect, ...]:
        return Zeroes(kept=self.fraction), Rescales(divisor=self.fraction)

    @override
    def protect(self, tensors: Parameters, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: tensor * self._mask(tensor, generator).to(tensor) / self.fraction
            for name, tensor in tensors.items()
        }

    @override
    def audit(self, clean: Parameters, sent: Parameters) -> dict[str, float]:
        """Measure the density; check it, and that what is sent is the update over ``fraction``.

        Raises:
            DefenseFailed: the share of entries that were kept is off by six standard deviations, or
                an entry is neither zero nor its own.
        """
        figures = super().audit(clean, sent)
        there = sum(int(tensor.count_nonzero()) for tensor in clean.values())  # others say nothing
        kept = sum(int(tensor.count_nonzero()) for tensor in sent.values())
        spread = (there * self.fraction * (1 - self.fraction)) ** 0.5
        if abs(kept - self.fraction * there) > 6 * spread + 1:
            raise DefenseFailed(f"{self!r} kept {kept} of {there} entries")
        for name, tensor in sent.items():
            full = (clean[name].double() / self.fraction).to(tensor)
            finest = torch.finfo(tensor.dtype).tiny * torch.finfo(tensor.dtype).eps
            chosen = tensor != 0
            if not torch.allclose(tensor[chosen], full[chosen], rtol=1e-2, atol=2 * finest):
                raise DefenseFailed(f"{self!r} sends entries that are not the update's")
        return {**figures, "density": kept / sum(tensor.numel() for tensor in sent.values())}

    @override
    def encoded(self, sent: Parameters, before: Encoding) -> Encoding:
        return before.kept(round(self.fraction * before.values), SEED_BITS)

    def _mask(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        """Return zeros and ones in the shape of ``tensor``, float64: 1 is kept."""
        draw = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        return (draw < self.fraction).double()
