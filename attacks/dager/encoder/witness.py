"""What a later layer read, as the last word on a sentence of an encoder's batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.dager import thresholds
from attacks.dager.encoder.attention import Candidates
from attacks.dager.span import Gate


@dataclass(frozen=True)
class Witness:
    """A later layer, which bears sentences out.

    Attributes:
        inputs: what it reads of sentences (N, T): (N, T, D).
        gate: to the span of all that it read.
    """

    inputs: Callable[[Tensor], Tensor]
    gate: Gate

    def settle(self, rows: Tensor, pool: Candidates, *, clear: bool) -> Tensor | None:
        """Return the sentence of candidates ``rows`` (T,) if it is borne out, or None.

        Where noise gives no threshold, a sentence that is not ``clear`` otherwise must have each
        token far closer to the span than what else could stand there; one that is not gives way
        to what is closer.
        """
        here = self._excess(pool.tokens[rows][None])[0]  # (T,)
        if clear or not self.gate.span.blurred or here.median() >= 1.0:
            return rows if bool((here < 1.0).all()) else None
        for _ in range(len(rows)):
            places, others = alternatives(rows, pool)
            if not len(places):  # nothing else could stand there
                return rows if bool((here < 1.0).all()) else None
            there = self._changed(places, pool.tokens[others])
            if bool((here < 1.0).all() and (there > thresholds.WITNESS_APART * here[places]).all()):
                return rows
            closer = there / here[places]
            if closer.min() >= 1.0:
                return None
            rows = others[closer.argmin()]
            here = self._excess(pool.tokens[rows][None])[0]
        return None

    def _changed(self, places: Tensor, sentences: Tensor) -> Tensor:
        """Return the excess at one place (M,) of each of ``sentences`` (M, T): (M,)."""
        count = max(1, math.ceil(sentences.numel() / thresholds.WITNESS_PART))
        parts = zip(places.chunk(count), sentences.chunk(count), strict=True)
        return torch.cat([self._excess(some).gather(1, at[:, None])[:, 0] for at, some in parts])

    def _excess(self, sentences: Tensor) -> Tensor:
        excess = self.gate.excess(self.inputs(sentences)).cpu()
        return excess


def alternatives(rows: Tensor, pool: Candidates) -> tuple[Tensor, Tensor]:
    """Return each way to change one token of a sentence: its position (M,), the rows (M, T).

    Its first and its last token are what they are.
    """
    here = torch.zeros(len(pool.tokens), dtype=torch.bool)
    here[rows] = True
    inner = (pool.positions > 0) & (pool.positions < len(rows) - 1) & ~pool.ends & ~here
    others = inner.nonzero().flatten()
    places = pool.positions[others]
    changed = rows.repeat(len(others), 1)
    changed[torch.arange(len(others)), places] = others
    return places, changed
