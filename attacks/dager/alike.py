"""What others cannot be told from: what a model embeds alike, no gradient tells apart."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.dager import thresholds
from attacks.dager.span import length
from fedsim.models import Attending, Entrance
from fedsim.types import Tokens


@dataclass(frozen=True)
class Alike:
    """Tells which of a decoder's sequences another text would have given as well.

    Attributes:
        twins: prefixes whose last token is embedded as another one is. Both follow one prefix, as
            both pass wherever one does.
        copies: copies of one token are seen as one: there are no learned positions, and texts
            begin with nothing of their own.
    """

    twins: frozenset[Tokens]
    copies: bool

    def __contains__(self, tokens: Tokens) -> bool:
        copied = self.copies and len(set(tokens)) == 1
        return copied or any(tokens[:stop] in self.twins for stop in range(1, len(tokens) + 1))


def likeness(
    single: Entrance, opening: Attending | None, tokens: Tensor, position: int
) -> tuple[Tensor, Tensor]:
    """Return which of ``tokens`` (N,) at ``position`` have one input, and which are one: (N, N).

    Inputs are divided by their lengths, what goes on beside attention is not. Where nobody knows
    what goes on (``opening`` is None), each is one with itself alone.
    """
    positions = torch.full_like(tokens, position)
    inputs = single.inputs(tokens, positions)
    near = _near(inputs / length(inputs)[:, None])
    if opening is None:
        return near, near & torch.eye(len(tokens), dtype=torch.bool)
    return near, near & _near(opening.residual(tokens, positions))


def _near(vectors: Tensor) -> Tensor:
    vectors = vectors.double()  # else the distance of equal ones is no less than 3e-4
    return (torch.cdist(vectors, vectors) < thresholds.RESOLUTION * length(vectors)).cpu()
