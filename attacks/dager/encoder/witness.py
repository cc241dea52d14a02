"""What a later layer read, as the last word on a sentence of an encoder's batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.dager import thresholds
from attacks.dager.encoder.attention import Candidates
from attacks.dager.span import Gate


@dataclass
class Witness:
    """A later layer, which bears sentences out.

    Attributes:
        inputs: what it reads of sentences (N, T): (N, T, D).
        gate: to the span of all that it read.
        read: how many tokens it was asked about so far.
    """

    inputs: Callable[[Tensor], Tensor]
    gate: Gate
    read: int = field(default=0, init=False)
    _ends: dict[tuple[int, ...], Tensor | None] = field(default_factory=dict, init=False)

    @property
    def tired(self) -> bool:
        """Whether it was asked as much as it may be."""
        return self.read > thresholds.WITNESSED

    def settle(self, rows: Tensor, pool: Candidates, *, clear: bool) -> Tensor | None:
        """Return the sentence of candidates ``rows`` (T,) if it is borne out, or None.

        Where noise gives no threshold, a sentence that is not ``clear`` otherwise must have each
        token far closer to the span than what else could stand there; one that is not gives way
        to what is closer, tokens that are outside of the span first.
        """
        here = self._excess(pool.tokens[rows][None])[0]  # (T,)
        if clear or not self.gate.span.blurred or here.median() >= 1.0:
            return rows if bool((here < 1.0).all()) else None
        path, end = list[tuple[int, ...]](), None
        while not self.tired:
            key = tuple(rows.tolist())
            if key in self._ends:  # None, too, where it comes back to itself
                end = self._ends[key]
                break
            self._ends[key] = None
            path.append(key)
            outside = here >= 1.0
            better, alone = self._better(rows, here, pool, outside)
            if better is None:
                better, alone = self._better(rows, here, pool, torch.ones_like(outside))
            borne_out = alone and not outside.any()
            if borne_out or better is None:
                end = rows if borne_out else None
                break
            rows = better
            here = self._excess(pool.tokens[rows][None])[0]
        self._ends |= dict.fromkeys(path, end)
        return end

    def _better(
        self, rows: Tensor, here: Tensor, pool: Candidates, where: Tensor
    ) -> tuple[Tensor | None, bool]:
        """Return a sentence (T,) with a closer token, and whether all others are far off.

        Args:
            rows: (T,) the sentence.
            here: (T,) the excess of its tokens.
            pool: the candidates.
            where: (T,) bool: the places to look at.
        """
        places, others = alternatives(rows, pool, where)
        if not len(places):  # nothing else could stand there
            return None, True
        there = self._changed(places, pool.tokens[others])
        closer = there / here[places]
        alone = bool((closer > thresholds.WITNESS_APART).all())
        return (others[closer.argmin()] if closer.min() < 1.0 else None), alone

    def _changed(self, places: Tensor, sentences: Tensor) -> Tensor:
        """Return the excess at one place (M,) of each of ``sentences`` (M, T): (M,)."""
        count = max(1, math.ceil(sentences.numel() / thresholds.WITNESS_PART))
        parts = zip(places.chunk(count), sentences.chunk(count), strict=True)
        return torch.cat([self._excess(some).gather(1, at[:, None])[:, 0] for at, some in parts])

    def _excess(self, sentences: Tensor) -> Tensor:
        self.read += sentences.numel()
        excess = self.gate.excess(self.inputs(sentences)).cpu()
        return excess


def alternatives(rows: Tensor, pool: Candidates, where: Tensor) -> tuple[Tensor, Tensor]:
    """Return each way to change one token of a sentence: its position (M,), the rows (M, T).

    That is at the places ``where`` (T,) is true. Its first and its last token are what they are.
    """
    here = torch.zeros(len(pool.tokens), dtype=torch.bool)
    here[rows] = True
    inner = (pool.positions > 0) & (pool.positions < len(rows) - 1) & ~pool.ends & ~here
    inner[inner.clone()] = where[pool.positions[inner]]
    others = inner.nonzero().flatten()
    places = pool.positions[others]
    changed = rows.repeat(len(others), 1)
    changed[torch.arange(len(others)), places] = others
    return places, changed
