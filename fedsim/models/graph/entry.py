"""What block 0 of any model reads of single tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.models.graph.anatomy import Anatomy
from fedsim.models.graph.trunk import read_at
from fedsim.models.workspace import Lease, Leased

AT_ONCE = 4096  # tokens that are run together


@dataclass(frozen=True, kw_only=True)
class GraphEntry(Leased):
    """What a map before any attention reads of (token, position) pairs, by running the model.

    Attributes:
        base: the model without its head.
        part: the map.
        anatomy: the model's.
        positions: the positions that differ: 1 where none matters.
        lease: of the weights.
    """

    base: nn.Module
    part: nn.Module
    anatomy: Anatomy
    positions: int
    lease: Lease | None = None

    def inputs(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return what tokens (N,) at positions (N,) give: (N, D)."""
        device = next(self.base.parameters()).device
        if self.positions == 1 or not len(positions):
            positions = torch.zeros_like(positions)
        order = positions.sort(stable=True).indices
        places, counts = positions[order].unique_consecutive(return_counts=True)
        made = []
        for place, rows in zip(places.tolist(), order.split(counts.tolist()), strict=True):
            for some in rows.split(AT_ONCE):
                ids = tokens[some.to(tokens.device)][:, None].to(device)
                made.append(read_at(self.base, self.part, ids, place, self.anatomy)[:, 0])
        if not made:
            return read_at(self.base, self.part, tokens.new_zeros(1, 1), 0, self.anatomy)[:0, 0]
        read = torch.cat(made)
        return read[order.argsort().to(device)]
