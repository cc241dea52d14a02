"""What comes back from the loss to each prefix, by the gradient of the last MLP's output map.

That gradient is A^T D, where the rows of A, the map's inputs at each prefix, are known once the
prefixes are, and are fewer than they are wide. So D = pinv(A^T) G is read off.

Source: ours; the algebra is that of a linear layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedsim.models import Closing
from fedsim.types import Tokens


@dataclass(frozen=True)
class Back:
    """N prefixes, and what came back to each.

    Attributes:
        prefixes: each once.
        closing: what the last block makes of them, float64.
        values: (N, D) D, float64.
        noise: (N,) how long what is left unexplained would be, if all of it came back to that one.
        explained: the share of the gradient's square that they explain, in [0, 1].
    """

    prefixes: Sequence[Tokens]
    closing: Closing
    values: Tensor
    noise: Tensor
    explained: float


def come_back(sequences: Sequence[Tokens], closing: Closing, gradient: Tensor) -> Back:
    """Return what ``gradient`` (I, D) of the last MLP's output map says of all prefixes.

    Args:
        sequences: the prefixes are theirs.
        closing: of each token of each sequence, one after the other.
        gradient: float64.
    """
    rows: dict[Tokens, int] = {}
    places = ((tokens, stop) for tokens in sequences for stop in range(1, len(tokens) + 1))
    for row, (tokens, stop) in enumerate(places):
        rows.setdefault(tokens[:stop], row)
    kept = torch.tensor(list(rows.values()), device=closing.states.device)
    activations, states = closing.activations[kept].double(), closing.states[kept].double()
    closing = replace(closing, activations=activations, states=states)
    return Back(list(rows), closing, *solved(activations, gradient))


def solved(activations: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return D (N, D) with A^T D = G, its noise (N,), and the share of G's square it explains.

    Rounding is even, but a text that was not found is not: what it adds is nearly that of others.

    Args:
        activations: (N, I) the map's inputs, N <= I.
        gradient: (I, D) the map's gradient.
    """
    size, (count, width) = gradient.square().sum(), activations.shape
    if count > width or not size:
        nothing = torch.zeros(count, gradient.shape[1]).double()
        return nothing, torch.full((count,), torch.inf).double(), 0.0
    basis, triangle = torch.linalg.qr(activations.T)
    inside = basis.T @ gradient
    inverse = torch.linalg.solve_triangular(triangle, torch.eye(count).to(triangle), upper=True)
    explained = (inside.square().sum() / size).clamp(max=1.0)
    rest = (size * (1 - explained)).sqrt()
    return inverse @ inside, rest * inverse.norm(dim=1), explained.item()
