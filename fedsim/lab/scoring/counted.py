"""What an attack says is in a batch, in no order and of no text by itself, against the whole batch.

No text of such a guess is exact, or in place, or has ROUGE: those figures are absent, not zero. A
guess of types names each token once, so both sides are sets; else how often counts on both sides.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fedsim.lab.store.figures import COUNTED
from fedsim.types import Reads, Tokens
from fedsim.vault.reader import Truth

DRAWS = 200  # of the no-gradient control


@dataclass(frozen=True)
class WholeBatch:
    """What is in a batch, special tokens left out, as an attack that ``reads`` such counts it."""

    there: Counter[int]  # empty: nothing, or nothing is known
    reads: Reads
    special: frozenset[int]

    @classmethod
    def of(cls, known: Truth | None, reads: Reads, special: frozenset[int]) -> "WholeBatch":
        """Return a client's."""
        none = cls(Counter(), reads, special)
        if known is None:
            return none
        labels = [(label,) for label in known.labels if label is not None]
        return none.holding(labels if reads == "labels" else known.sequences)

    def holding(self, rows: Iterable[Sequence[int]]) -> "WholeBatch":
        """Return the same of a batch that holds ``rows``."""
        return replace(self, there=self._bag(rows))

    def compared(self, rows: Iterable[Sequence[int]]) -> dict[str, float]:
        """Return precision, recall and F1 of what was guessed; no precision of no guess.

        Raises:
            ValueError: there is nothing in the batch.
        """
        if not self.there:
            raise ValueError("a batch needs a token or a label to be scored, got none")
        guess = self._bag(rows)
        shared, whole = (self.there & guess).total(), self.there.total()
        told = {"counted_precision": shared / guess.total()} if guess else {}
        f1 = 2 * shared / (whole + guess.total())
        return told | {"counted_recall": shared / whole, COUNTED: f1}

    def unrelated(
        self,
        rows: Iterable[Sequence[int]],
        size: int,
        pool: Sequence[Tokens],
        labels: int,
        chance: random.Random,
    ) -> list[float]:
        """Return F1 of what has nothing to do with the update, drawn again and again.

        Of a batch that is drawn as many are taken as were guessed: few that are all right are no
        chance, though all of an unrelated batch would have a higher F1.

        Args:
            rows: what was guessed.
            size: B.
            pool: unrelated sentences: B of them stand for a batch.
            labels: how many there are; B of them, each as likely, stand for a batch's.
            chance: draws.
        """
        scores, many = [], self._bag(rows).total()
        for _ in range(DRAWS if pool or self.reads == "labels" else 0):
            drawn: list[Tokens] = [(chance.randrange(labels),) for _ in range(size)]
            if self.reads != "labels":
                drawn = chance.choices(pool, k=size)
            there = list(self._bag(drawn).elements())
            some = chance.sample(there, min(many, len(there)))
            scores.append(self.compared([(one,) for one in some])[COUNTED])
        return scores

    def _bag(self, rows: Iterable[Sequence[int]]) -> Counter[int]:
        plain = rows if self.reads == "labels" else bare(rows, self.special)
        bag = Counter(token for row in plain for token in row)
        return Counter(dict.fromkeys(bag, 1)) if self.reads == "types" else bag


def bare(rows: Iterable[Sequence[int]], special: frozenset[int]) -> list[Tokens]:
    """Return ``rows`` without special tokens."""
    return [tuple(token for token in row if token not in special) for row in rows]
