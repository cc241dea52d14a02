"""Send one bit an entry: its sign.

Source:      Bernstein et al., "signSGD", ICML 2018, arXiv:1802.04434, algorithm 1; with the scale
             of Karimireddy et al., "Error Feedback Fixes SignSGD", ICML 2019, arXiv:1901.09847,
             algorithm 1: each tensor's mean magnitude, so that any server can average it.
Guarantee:   none; this is compression, and any protection is incidental.
Deviations:  no error feedback; an entry that is exactly zero has no sign, so a fair coin gives its
             bit (a third value would take more than one bit, and show which embeddings were used).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from defenses.base import Defense
from defenses.encoding import Encoding
from fedsim.effects import Effect, Signs
from fedsim.errors import DefenseFailed
from fedsim.types import Parameters

SCALE_BITS = 32


@dataclass(frozen=True, kw_only=True)
class Sign(Defense):
    """Send each tensor as its signs times its mean magnitude."""

    @override
    def effects(self) -> tuple[Effect, ...]:
        return (Signs(),)

    @override
    def protect(self, tensors: Parameters, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: signs(tensor, generator) for name, tensor in tensors.items()}

    @override
    def audit(self, clean: Parameters, sent: Parameters) -> dict[str, float]:
        """Measure how many signs were chance; check that each tensor is its signs times its scale.

        Raises:
            DefenseFailed: one is not.
        """
        figures = super().audit(clean, sent)
        for name, tensor in sent.items():
            scale, there = clean[name].double().abs().mean().to(tensor.dtype), clean[name] != 0
            if not (tensor.abs() == scale).all() or (tensor[there] * clean[name][there] < 0).any():
                raise DefenseFailed(f"{self!r} sends more of {name!r} than its signs")
        chance = sum(int((tensor == 0).sum()) for tensor in clean.values())
        return {**figures, "chance": chance / sum(tensor.numel() for tensor in clean.values())}

    @override
    def encoded(self, sent: Parameters, before: Encoding) -> Encoding:
        entries = before.entries  # each has its bit, those that were left out before it, too
        return Encoding(
            entries=entries, values=entries, value_bits=1, extra_bits=SCALE_BITS * len(sent)
        )


def signs(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``tensor``'s signs times its mean magnitude; zeros take either sign by chance."""
    coins = torch.randint(2, tensor.shape, generator=generator).to(tensor.device)  # 0 or 1
    positive = (tensor > 0) | ((tensor == 0) & (coins == 1))
    scale = tensor.double().abs().mean().to(tensor.dtype)
    return torch.where(positive, scale, -scale)
