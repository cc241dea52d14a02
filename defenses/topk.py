"""Send only the largest entries of the update.

Source:      Aji & Heafield, "Sparse Communication for Distributed Gradient Descent", EMNLP 2017,
             arXiv:1704.05021, algorithm 1; the residual is the memory of Stich, Cordonnier, Jaggi,
             "Sparsified SGD with Memory", NeurIPS 2018, arXiv:1809.07599, algorithm 1.
Guarantee:   none; this is compression, and any protection is incidental.
Deviations:  the first paper estimates the cut-off from a sample; ours is exact. A residual is each
             client's own, and waits for the next round it takes part in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from defenses.base import Defense, Here, Memory
from defenses.encoding import Encoding, index_bits
from fedsim.effects import Effect, Zeroes
from fedsim.errors import DefenseFailed
from fedsim.types import Parameters

Scope = Literal["update", "tensor"]


@dataclass(frozen=True, kw_only=True)
class TopK(Defense):
    """Keep the ``fraction`` of entries that are largest in magnitude; zero the others.

    Of equal ones, the first are kept, so the share is exact.
    """

    fraction: float = 0.01  # in (0, 1]; at least one entry is kept
    per: Scope = "update"  # largest in the whole update, or in each tensor of it
    residual: bool = False  # add next time what was not sent this time

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")
        if self.per not in get_args(Scope):
            raise ValueError(f"per must be {' or '.join(get_args(Scope))}, got {self.per!r}")

    @override
    def effects(self) -> tuple[Effect, ...]:
        return (Zeroes(kept=self.fraction),)

    @override
    def begin(self, here: Here) -> Defense:
        return _WithResidual(**vars(self), owed=here.memory.tensors) if self.residual else self

    @override
    def protect(self, tensors: Parameters, generator: torch.Generator) -> dict[str, Tensor]:
        sent: dict[str, Tensor] = {}
        for names in self._parts(tensors):
            sent |= largest({name: tensors[name] for name in names}, self.fraction)
        return sent

    @override
    def audit(self, clean: Parameters, sent: Parameters) -> dict[str, float]:
        """Measure the density; check it, that what is sent is true and that nothing larger is left.

        Raises:
            DefenseFailed: not ``fraction`` was sent, or something else, or not the largest.
        """
        figures = super().audit(clean, sent)
        entries = sum(tensor.numel() for tensor in sent.values())
        nonzero = sum(int(tensor.count_nonzero()) for tensor in sent.values())
        for name, tensor in sent.items():
            if not torch.equal(tensor[tensor != 0], clean[name][tensor != 0]):
                raise DefenseFailed(f"{self!r} sends entries that the update does not have")
        for names in self._parts(sent):
            self._check_part([(clean[name], sent[name]) for name in names])
        return {**figures, "density": nonzero / entries}

    def _check_part(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Raise DefenseFailed where not the largest entries of a part were sent, all and alone."""
        entries = sum(whole.numel() for whole, _ in pairs)
        nonzero = sum(int(part.count_nonzero()) for _, part in pairs)
        there = sum(int(whole.count_nonzero()) for whole, _ in pairs)
        wanted = min(share(entries, self.fraction), there)
        if nonzero != wanted:
            raise DefenseFailed(f"{self!r} sends {nonzero} of {entries} entries, not {wanted}")
        sent = torch.cat([part[part != 0].abs() for _, part in pairs])
        left = torch.cat([whole[part == 0].abs() for whole, part in pairs])
        if len(sent) and len(left) and left.max() > sent.min():
            raise DefenseFailed(f"{self!r} sends smaller entries than it leaves")

    def _parts(self, tensors: Parameters) -> list[list[str]]:
        """Return the names of what the largest are chosen from together."""
        return [list(tensors)] if self.per == "update" else [[name] for name in tensors]

    @override
    def encoded(self, sent: Parameters, before: Encoding) -> Encoding:
        kept = min(self._kept(sent), before.values)
        return before.kept(kept, index_bits(kept, before.entries))

    def _kept(self, tensors: Parameters) -> int:
        """Return how many entries of ``tensors`` are sent."""
        sizes = [sum(tensors[name].numel() for name in names) for names in self._parts(tensors)]
        return sum(share(size, self.fraction) for size in sizes)


@dataclass(frozen=True, kw_only=True)
class _WithResidual(TopK):
    """TopK with a residual, in one client and round."""

    owed: Mapping[str, Tensor] = field(repr=False)  # what earlier rounds left unsent
    left: dict[str, Tensor] = field(default_factory=dict, repr=False)  # and this one

    @override
    def protect(self, tensors: Parameters, generator: torch.Generator) -> dict[str, Tensor]:
        whole = self._whole(tensors)
        sent = super().protect(whole, generator)
        self.left.update({name: (tensor - sent[name]).cpu() for name, tensor in whole.items()})
        return sent

    @override
    def audit(self, clean: Parameters, sent: Parameters) -> dict[str, float]:
        return super().audit(self._whole(clean), sent)

    @override
    def keep(self) -> Memory:
        return Memory(tensors=self.left)

    def _whole(self, tensors: Parameters) -> dict[str, Tensor]:
        return {
            name: tensor + self.owed[name].to(tensor) if name in self.owed else tensor
            for name, tensor in tensors.items()
        }


def share(entries: int, fraction: float) -> int:
    """Return how many of ``entries`` are ``fraction`` of them: at least one, if there is any."""
    return min(entries, max(1, round(fraction * entries)))


def largest(tensors: Parameters, fraction: float) -> dict[str, Tensor]:
    """Return ``tensors`` with all but the ``fraction`` of largest magnitude set to zero."""
    flat = torch.cat([tensor.flatten().abs().double() for tensor in tensors.values()])  # (N,)
    kept = share(len(flat), fraction)
    cutoff = flat.kthvalue(len(flat) - kept + 1).values  # the kept-th largest magnitude
    chosen = flat > cutoff
    equal = (flat == cutoff).nonzero().flatten()
    chosen[equal[: kept - int(chosen.sum())]] = True
    parts = torch.split(chosen, [tensor.numel() for tensor in tensors.values()])
    return {
        name: torch.where(part.view_as(tensor), tensor, torch.zeros_like(tensor))
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }
