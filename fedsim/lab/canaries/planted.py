"""Canaries: examples, or clients, whose gradient is one known coordinate and is always clipped.

A canary example's loss is SCALE x w[j], where w is a weight that nothing else reads: it goes
through autograd, clipping, noise and the wire like any other, and its whole gradient is
SCALE x e_j. One that is out has a loss of 0, so its gradient is that of no example at all.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from defenses import Defense
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.types import Parameters, Tokens

SCALE = 1e4  # of a canary's gradient; what is to be clipped must be larger than the bound
NAME = "canary.weight"
MANTISSA = 7  # base of the numbers that tell canaries' tokens apart


def canary_tokens(adapter: ModelAdapter, place: int) -> Tokens:
    """Return the sequence that stands for canary ``place``; no text is like it."""
    special = adapter.special  # once: the tokenizer gathers them anew each time
    plain = (token for token in range(adapter.vocabulary) if token not in special)
    some = list(itertools.islice(plain, MANTISSA))
    digits = [some[(place // MANTISSA**power) % MANTISSA] for power in range(8)]
    return (*adapter.prefix, *digits, *adapter.suffix)


class Planted:
    """An adapter whose model has a weight more, which only canaries' losses read.

    Everything else is the adapter's own; it is a workspace of its own.
    """

    def __init__(self, spec: ModelSpec, device: torch.device, inside: Sequence[bool]) -> None:
        self.adapter = load_adapter(spec).to(device)
        self.adapter.module.add_module("canary", nn.Linear(len(inside), 1, bias=False))
        module: nn.Module = self.adapter.module
        module.to(device)
        with torch.no_grad():
            self.adapter.module.get_parameter(NAME).zero_()
        self.inside = torch.tensor(inside, dtype=torch.float32, device=device)
        self.place = {canary_tokens(self.adapter, at): at for at in range(len(inside))}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.adapter, name)

    def parameters(self) -> dict[str, Tensor]:
        """Return the weights of round 1 that train, the canaries' among them."""
        return {
            name: p.detach().cpu().clone()
            for name, p in self.adapter.module.named_parameters()
            if p.requires_grad
        }

    def batch(
        self, sequences: Sequence[Tokens], labels: Sequence[int | None], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the adapter's batch, and which canary each row is, one-hot: (B, M)."""
        batch = self.adapter.batch(sequences, labels, generator)
        rows = torch.zeros(len(sequences), len(self.place))
        for row, tokens in enumerate(sequences):
            if tokens in self.place:
                rows[row, self.place[tokens]] = 1.0
        return batch | {"canary": rows.to(self.adapter.device)}

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return each example's loss (B,): a canary's is that of its own weight alone."""
        rows = batch["canary"]
        texts = {name: tensor for name, tensor in batch.items() if name != "canary"}
        planted: Any = module.get_submodule("canary")
        own = SCALE * planted(rows * self.inside)[:, 0]  # 0 for texts, and for those that are out
        return torch.where(rows.any(1), own, self.adapter.losses(module, texts))


@dataclass(frozen=True, kw_only=True)
class Saturated(Defense):
    """Stands before a defense and makes the client's update a canary: +-SCALE at one entry."""

    entry: str  # the parameter whose first entry it is
    inside: bool

    @override
    def protect(self, tensors: Parameters, generator: torch.Generator) -> Parameters:
        planted = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        planted[self.entry].view(-1)[0] = SCALE if self.inside else -SCALE
        return planted
