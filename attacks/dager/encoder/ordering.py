"""Sentences of an encoder with relative positions: which tokens, and in which order.

Source:      the setting of DAGER (arXiv:2405.15586v2, section 5.2: encoders); the search is ours.
Assumes:     block 0's span gives the tokens, but not their places; a later layer's span, nearly
             free of noise; a tokenizer that begins and ends texts with special tokens.
Recovers:    distinct sentences of a few dozen tokens, exactly.
Method:      What a later layer reads of a sentence lies in its span only if all tokens are there
             and in place. Which are there counts far more than where (attention of few steps is
             nearly even), so one token's row, as others come and go, tells its sentence; all rows,
             as tokens change places, tell the order. Both are descents to the nearest change.
Measured:    its thresholds, on tiny models (d = 128, 3 blocks), random, float32, seed 1. A true
             order's nearest change is 3.5 times farther and more (ModernBERT) or 1.03 to 4.7 times
             (DeBERTa, most below 2): CoLA, two sentences, batches 100 to 111. An order that is
             wrong, as noise of 1e-4 to 6e-4 of the deviation hid the true one: at most 1.01 times,
             one text of 3 to 8 random tokens. Rows over what noise gives, the median: true
             sentences at most .34, others .34 and more, so LIKELY decides about work alone.
"""

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.base import Notes
from attacks.dager import thresholds
from attacks.dager.gates import Gates
from attacks.dager.span import Gate, length
from fedsim.models import ModelAdapter
from fedsim.types import Tokens

logger = logging.getLogger("fedsim.attacks")


def read_in_order(
    model: ModelAdapter, gates: Gates, notes: Notes, generator: torch.Generator, tries: int
) -> tuple[Tokens, ...]:
    """Return the sentences of a batch whose tokens look the same wherever they stand.

    Args:
        model: an encoder.
        gates: the tokens, and a later layer.
        notes: get numbers about the search.
        generator: draws the orders that descents begin with.
        tries: tokens whose sentence is looked for, at most.
    """
    tokens = gates.tokens.at(0)
    notes |= {"candidates": len(tokens), "cut": False, "best_effort": True, "alike": 0}
    if len(tokens) > gates.entry.span.rank + thresholds.LOOK:  # the span holds all that there is
        return ()
    vectors = gates.single.inputs(tokens, torch.zeros_like(tokens))
    near = gates.entry.span.distance(vectors).cpu().argsort().tolist()
    special = {*model.prefix, *model.suffix}
    search = OrderSearch(
        inputs=gates.inputs,
        gate=gates.inner,
        bag=[token for token in tokens[near].tolist() if token not in special],
        start=model.prefix,
        end=model.suffix,
        longest=min(model.positions, gates.inner.span.rank + thresholds.LOOK),
        generator=generator,
    )
    found, twins = search.run(tries, notes), _twins(tokens.tolist(), vectors)
    notes["alike"] = sum(
        not (placed.clear and twins.isdisjoint(placed.sentence)) for placed in found
    )
    return tuple(placed.sentence for placed in found)


def _twins(tokens: Sequence[int], vectors: Tensor) -> set[int]:
    """Return those of ``tokens`` whose ``vectors`` (N, D) are another's, too."""
    unit = vectors / length(vectors)[:, None]
    close = torch.cdist(unit, unit) < thresholds.RESOLUTION
    close.fill_diagonal_(False)
    return {token for token, alike in zip(tokens, close.any(dim=1).tolist(), strict=True) if alike}


@dataclass(frozen=True)
class Placed:
    """A sentence of tokens in order.

    Attributes:
        sentence: the tokens, specials included.
        distance: from the span, the geometric mean of its rows'.
        apart: how many times farther the nearest change of its order is.
        excess: its rows' distance over what noise would give them, the median.
    """

    sentence: Tokens
    distance: float
    apart: float
    excess: float

    @property
    def clear(self) -> bool:
        """Whether no change of it comes near."""
        return self.apart > thresholds.ORDER_APART


@dataclass
class OrderSearch:
    """Looks for the sentences that tokens make.

    Attributes:
        inputs: what the later layer reads of sentences (N, T): (N, T, D).
        gate: to the span of all that it read.
        bag: the tokens that block 0's span holds, specials aside, nearest first.
        start: the special tokens that begin a sentence.
        end: those that end it.
        longest: the most tokens of a sentence.
        generator: draws the orders that descents begin with.
        read: how many tokens the layer was asked about.
    """

    inputs: Callable[[Tensor], Tensor]
    gate: Gate
    bag: Sequence[int]
    start: Tokens
    end: Tokens
    longest: int
    generator: torch.Generator
    read: int = field(default=0, init=False)

    def run(self, tries: int, notes: Notes) -> list[Placed]:
        """Return the sentences found, surest first; each holds a token that none before it does."""
        found: dict[Tokens, Placed] = {}  # by its tokens, sorted
        told, tried = set[int](), 0  # tokens of sentences that are clear, or came up twice
        for whole, token in itertools.product((False, True), self.bag):
            likely = (p.sentence for p in found.values() if p.excess < thresholds.LIKELY)
            if token in told or (whole and any(token in sentence for sentence in likely)):
                continue
            if tried == tries or self._tired:
                notes["cut"] = True
                break
            tried += 1
            inner = self._gathered(token, whole=whole)
            key = tuple(sorted(inner))
            again = key in found
            placed = found[key] if again else self._placed(inner)
            found[key] = placed
            if placed.clear or (again and placed.excess < thresholds.LIKELY):
                told |= set(inner)
            logger.info("%d sets of tokens after %d tokens", len(found), tried)
        chosen, held = list[Placed](), set[int]()
        for placed in sorted(found.values(), key=lambda placed: placed.distance):
            if not held.issuperset(placed.sentence) and placed.excess < 1.0:
                chosen.append(placed)
                held |= set(placed.sentence)
        rows = sum(len(placed.sentence) for placed in chosen)
        complete = rows >= self.gate.span.rank and held.issuperset(self.bag)
        notes |= {"witnessed": self.read, "cut": notes["cut"] or self._tired}
        notes["best_effort"] = notes["cut"] or self.gate.span.blurred or not complete
        return chosen

    @property
    def _tired(self) -> bool:
        return self.read > thresholds.WITNESSED

    def _gathered(self, token: int, *, whole: bool) -> Tokens:
        """Return tokens that together bring the row of ``token`` nearest to the span.

        Args:
            token: one of them.
            whole: begin with all tokens, not with none.
        """
        place = len(self.start)

        def changes(inner: Tokens) -> Iterator[Tokens]:
            if len(inner) + len(self.start + self.end) < self.longest:
                yield from ((*inner, other) for other in self.bag)
            for at in range(1, len(inner)):
                rest = (*inner[:at], *inner[at + 1 :])
                yield rest
                yield from ((*rest, other) for other in self.bag if other != inner[at])

        others = (other for other in self.bag if other != token)
        most = self.longest - len(self.start + self.end) - 1 if whole else 0
        return self._descended((token, *itertools.islice(others, most)), changes, place)[0]

    def _placed(self, inner: Tokens) -> Placed:
        """Return a sentence of the tokens ``inner`` in the order that comes nearest."""
        ends = dict[Tokens, tuple[float, float]]()
        for _ in range(thresholds.STARTS):
            order = torch.randperm(len(inner), generator=self.generator).tolist()
            drawn = tuple(inner[number] for number in order)
            here, distance, nearest = self._descended(drawn, moved, None)
            least = min([*ends.values()], default=(math.inf, 0.0))[0]
            again = here in ends and distance <= least
            ends[here] = (distance, nearest)
            clear = distance < least and nearest > thresholds.ORDER_APART * distance
            if again or clear or self._tired:
                break
        best = min(ends, key=lambda end: ends[end][0])
        sentence = (*self.start, *best, *self.end)
        distance, nearest = ends[best]
        excess = self.gate.excess(self.inputs(torch.tensor([sentence])))[0].median().item()
        return Placed(sentence, distance, nearest / distance, excess)

    def _descended(
        self, inner: Tokens, changes: Callable[[Tokens], Iterator[Tokens]], place: int | None
    ) -> tuple[Tokens, float, float]:
        """Return tokens that no change brings nearer, their distance, and the nearest change's."""
        (distance,) = self._distances([inner], place)
        while True:
            others = [other for other in dict.fromkeys(changes(inner)) if other != inner]
            order = torch.randperm(len(others), generator=self.generator)
            nearest, better = math.inf, None
            for part in order.split(thresholds.CHANGES) if others else ():
                some = [others[number] for number in part.tolist()]
                distances = self._distances(some, place)
                nearest = min(nearest, *distances)
                if nearest < distance:
                    better = some[distances.index(nearest)]
                    break
            if better is None or self._tired:
                return inner, distance, nearest
            inner, distance = better, nearest

    def _distances(self, inners: Sequence[Tokens], place: int | None) -> list[float]:
        """Return how far sentences are from the span: at one place, or the mean over all.

        The geometric one: of a sentence that is there, a few rows may have left no trace.
        """
        distances = [0.0] * len(inners)
        for length_ in {len(inner) for inner in inners}:
            numbers = [number for number, inner in enumerate(inners) if len(inner) == length_]
            sentences = torch.tensor([(*self.start, *inners[n], *self.end) for n in numbers])
            for number, distance in zip(numbers, self._far(sentences, place), strict=True):
                distances[number] = distance
        return distances

    def _far(self, sentences: Tensor, place: int | None) -> list[float]:
        self.read += sentences.numel()
        step = max(1, thresholds.WITNESS_PART // sentences.shape[1])
        far = torch.cat([self.gate.span.distance(self.inputs(s)) for s in sentences.split(step)])
        far = far.double().clamp_min(torch.finfo(torch.float32).tiny)
        mean = far.log().mean(dim=1).exp() if place is None else far[:, place]
        told: list[float] = mean.tolist()
        return told


def moved(inner: Tokens) -> Iterator[Tokens]:
    """Yield ``inner`` with two tokens swapped, or one moved elsewhere."""
    for one, other in itertools.combinations(range(len(inner)), 2):
        swapped = list(inner)
        swapped[one], swapped[other] = swapped[other], swapped[one]
        yield tuple(swapped)
    for one, other in itertools.permutations(range(len(inner)), 2):
        rest = [*inner[:one], *inner[one + 1 :]]
        yield (*rest[:other], inner[one], *rest[other:])
