"""What block 0 of any model reads of single tokens."""

import torch
from torch import Tensor

from fedsim.models.graph.trunk import GraphTrunk

AT_ONCE = 4096  # tokens that are run together


class GraphEntry:
    """What block 0's first maps read of (token, position) pairs.

    Attributes:
        positions: the positions that differ: 1 where none matters.
    """

    def __init__(self, trunk: GraphTrunk, positions: int) -> None:
        self._trunk = trunk
        self.positions = positions

    def inputs(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return what tokens (N,) at positions (N,) give: (N, D)."""
        if self.positions == 1:
            positions = torch.zeros_like(positions)
        order = positions.sort(stable=True).indices
        places, counts = positions[order].unique_consecutive(return_counts=True)
        made = []
        for place, rows in zip(
            places.tolist(), order.split(counts.tolist()) if len(order) else (), strict=True
        ):
            for some in rows.split(AT_ONCE):
                made.append(self._trunk.inputs(tokens[some][:, None], first=place)[0][:, 0])
        if not made:
            return self._trunk.inputs(tokens.new_zeros(1, 1))[0][:0, 0]
        read = torch.cat(made)
        return read[order.argsort().to(read.device)]
