"""What others cannot be told from: what a model embeds alike, no gradient tells apart."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attacks.dager import thresholds
from attacks.dager.span import length
from fedsim.models import Entrance
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


def find_alike(single: Entrance, sequences: Sequence[Tokens], start: Tokens) -> Alike:
    """Return what others cannot be told from.

    Args:
        single: what block 0 reads of single tokens.
        sequences: all that a search found.
        start: what every text begins with.
    """
    after: dict[Tokens, set[int]] = defaultdict(set)
    for tokens in sequences:
        for stop in range(len(start), len(tokens)):
            after[tokens[:stop]].add(tokens[stop])
    twins = set[Tokens]()
    for prefix, followers in after.items():
        if len(followers) > 1:
            twins |= {(*prefix, token) for token in _twins(single, sorted(followers), len(prefix))}
    return Alike(frozenset(twins), single.positions == 1 and not start)


def _twins(single: Entrance, tokens: Sequence[int], position: int) -> list[int]:
    """Return those of ``tokens`` whose input at ``position`` is that of another one."""
    ids = torch.tensor(tokens)
    vectors = single.inputs(ids, torch.full_like(ids, position))
    vectors = vectors / length(vectors)[:, None]
    near = (torch.cdist(vectors, vectors) < thresholds.RESOLUTION).sum(dim=1) > 1
    twins: list[int] = ids[near.cpu()].tolist()
    return twins
