"""Algorithm 2 of DAGER: which prefixes go on, and with which tokens.

Source:      Petrov et al., NeurIPS 2024, arXiv:2405.15586v2, algorithm 2. Where noise is known a
             pair passes below its own threshold, as there; where it is not, gaps tell (ours).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Notes
from attacks.dager import thresholds
from attacks.dager.alike import likeness
from attacks.dager.gates import Gates
from attacks.dager.prefixes import PrefixCheck
from fedsim.types import Tokens


@dataclass(kw_only=True)
class PrefixSearch:
    """Prefixes that grow token by token while the new position stays in the span.

    Attributes:
        gates: the tokens that fit each position.
        check: tells whether a prefix's new end is in the span.
        notes: counts the pairs that were checked; says when the search was cut short.
        examples: as many as the client says; 0: it does not say.
        max_prefixes: prefixes kept per position, closest first.
        max_pairs: (prefix, token) pairs before the search is cut short.
    """

    gates: Gates
    check: PrefixCheck
    notes: Notes
    examples: int
    max_prefixes: int
    max_pairs: int

    def __post_init__(self) -> None:
        self._passed = torch.empty(0)  # the excess of all pairs that passed
        self._far: dict[Tokens, float] = {}  # of each prefix, the farthest of its tokens
        self._excess: list[float] = []  # of the pairs that passed last
        self.twins: set[Tokens] = set()  # prefixes whose last token stands for others, too
        self.crowd = thresholds.CROWD * max(self.examples, thresholds.CROWD_EXAMPLES)

    def begin(self, start: Tokens) -> list[Tokens]:
        """Return the prefixes to begin with: ``start`` alone."""
        self.check.begin(start)
        return [start]

    def extensions(self, prefixes: list[Tokens], candidates: Tensor, position: int) -> Tensor:
        """Return the pairs (row of ``prefixes``, place in ``candidates``) that pass: (K, 2)."""
        pairs = self._pairs(prefixes, candidates)
        chosen, excess = self.check.excess(pairs, candidates, position)
        self.notes["pairs_checked"] += int(pairs.sum())
        self.notes["pairs_in_full"] += 0 if self.check.vague else len(chosen)
        inside = self._inside(chosen[:, 0], excess).nonzero().flatten()
        inside = self._closest(inside, excess, thresholds.TWINS)
        kept = self._one_of_twins(prefixes, candidates, chosen[inside], excess[inside])
        inside = self._crowded(inside[kept], excess)
        self._excess = excess[inside].tolist()
        self.notes["prefixes"] = self.notes.get("prefixes", 0) + len(inside)
        return chosen[inside]

    def _crowded(self, inside: Tensor, excess: Tensor) -> Tensor:
        """Return those of the pairs ``inside`` (K,) that may go on.

        Where noise is not known no more than some for each of the client's examples do, but for
        those that are clearly in the span.
        """
        if self.examples and self.check.vague and len(inside) > self.crowd:
            clear = inside[excess[inside] < self.sure]
            most = min(self.max_prefixes, max(self.crowd, len(clear)))
            return self._closest(inside, excess, most)
        return self._closest(inside, excess, self.max_prefixes)

    def _closest(self, inside: Tensor, excess: Tensor, most: int) -> Tensor:
        """Return ``most`` of the pairs ``inside`` (K,), the closest, in order; notes a cut."""
        if len(inside) <= most:
            return inside
        self.notes["cut"] = True
        return inside[excess[inside].topk(most, largest=False).indices.sort().values]

    def _one_of_twins(
        self, prefixes: list[Tokens], candidates: Tensor, chosen: Tensor, excess: Tensor
    ) -> Tensor:
        """Return which of the pairs ``chosen`` (K, 2) go on: (K,), bool.

        Tokens that are embedded alike go on alike, so the closest one stands for all.
        """
        kept = torch.ones(len(chosen), dtype=torch.bool)
        places, where = chosen[:, 1].unique(return_inverse=True)
        if len(places) < 2:
            return kept
        near, same = likeness(
            self.gates.single, self.gates.opening, candidates[places], len(prefixes[0])
        )
        if int(near.sum()) == len(places):
            return kept
        for row in chosen[:, 0].unique().tolist():
            pairs = (chosen[:, 0] == row).nonzero().flatten()
            pairs = pairs[excess[pairs].argsort(stable=True)]
            at = where[pairs]
            first = same[at][:, at].int().argmax(dim=1)  # the closest that each is one with
            kept[pairs] = first == torch.arange(len(pairs))
            for pair in pairs[near[at][:, at].sum(dim=1) > 1].tolist():
                self.twins.add((*prefixes[row], int(candidates[chosen[pair, 1]])))
        return kept

    def exhausted(self) -> bool:
        """Return, and note, whether the search should end early.

        As many pairs were checked as may be; or it explodes: as inputs are independent, no more
        prefixes can be true than the span shows inputs.
        """
        work = self.notes["pairs_checked"] + thresholds.IN_FULL * self.notes["pairs_in_full"]
        most = thresholds.EXPLODED * self.notes["rank_1"]
        ends = work > self.max_pairs or (not self.check.vague and self.notes["prefixes"] > most)
        if ends:
            self.notes["cut"] = True
        return ends

    def advance(self, prefixes: list[Tokens], candidates: Tensor, chosen: Tensor) -> list[Tokens]:
        """Return the prefixes that the pairs ``chosen`` (K, 2) make, and hold them."""
        self.check.advance(chosen)
        tokens, longer = candidates.tolist(), list[Tokens]()
        for (row, place), excess in zip(chosen.tolist(), self._excess, strict=True):
            before = prefixes[row]
            longer.append((*before, tokens[place]))
            self._far[longer[-1]] = max(self._far.get(before, 0.0), excess)
        return longer

    @property
    def sure(self) -> float:
        """Below which excess a continuation is clearly in the span."""
        if not self.check.vague:
            return 1.0
        return thresholds.SURE if self.check.drifting else 0.0

    def ranked(self, prefixes: list[Tokens]) -> tuple[Tokens, ...]:
        """Return ``prefixes``, those first whose farthest token is closest to the span.

        Where noise is not known most are false: only some for each of the client's examples stay,
        and those that are clearly in the span.
        """
        if self.check.vague or len(prefixes) > self.examples:
            prefixes = sorted(prefixes, key=lambda prefix: self._far.get(prefix, 0.0))
        if self.check.vague and self.examples and len(prefixes) > self.crowd:
            most = sum(self._far.get(prefix, 0.0) < self.sure for prefix in prefixes)
            kept = prefixes[: max(self.crowd, most)]
            if len(kept) < len(prefixes):
                self.notes["cut"] = True
                self.notes["dropped"] += len(prefixes) - len(kept)
            prefixes = kept
        return tuple(prefixes)

    def clear(self, sequences: Sequence[Tokens]) -> frozenset[Tokens]:
        """Return the prefixes of ``sequences`` whose every token is clearly in both spans."""
        entry, clear = self.gates.entry, set[Tokens]()
        bar = 1.0 if not entry.vague else thresholds.SURE if entry.span.drifting else 0.0
        for tokens in sequences:
            ids = torch.tensor(tokens)
            vectors = self.gates.single.inputs(ids, torch.arange(len(ids)))
            far = entry.excess(vectors).cpu().cummax(dim=0).values.tolist()
            for stop, excess in enumerate(far, start=1):
                if excess < bar and self._far.get(tokens[:stop], 0.0) < self.sure:
                    clear.add(tokens[:stop])
        return frozenset(clear)

    def _inside(self, rows: Tensor, excess: Tensor) -> Tensor:
        """Return which pairs pass: (K,), bool."""
        if not self.check.vague:
            return excess < 1.0
        if self.check.drifting:
            sure, apart = thresholds.SURE, thresholds.APART
        else:
            sure, apart = thresholds.STILL, thresholds.STILL_APART
        inside = stand_out(rows, excess, self._reach(excess), sure, apart)
        self._passed = torch.cat([self._passed, excess[inside]])
        return inside

    def _reach(self, excess: Tensor) -> float:
        """Return how far a continuation may be, by those that passed so far."""
        if self.check.drifting:
            if not len(self._passed):
                return thresholds.OFF
            return thresholds.OFF * float(self._passed.quantile(thresholds.OFF_QUANTILE))
        known = self._passed if len(self._passed) else excess.sort().values[:1]
        return thresholds.STILL_OFF * (float(known.median()) if len(known) else 1.0)

    def _pairs(self, prefixes: list[Tokens], candidates: Tensor) -> Tensor:
        """Return which (prefix, token) pairs to check: (N, C), bool.

        Rotary attention over copies of one token gives what one copy gives, so without learned
        positions "x x" looks like "x": a prefix of copies is not extended by another.
        """
        pairs = torch.ones(len(prefixes), len(candidates), dtype=torch.bool)
        if self.gates.tokens.positions == 1:
            copies = [prefix[0] if len(set(prefix)) == 1 else -1 for prefix in prefixes]
            pairs &= torch.tensor(copies)[:, None] != candidates
        return pairs


def stand_out(rows: Tensor, excess: Tensor, reach: float, sure: float, apart: float) -> Tensor:
    """Return which pairs are inside a span that is blurred: (K,), bool.

    Where noise is not known, a prefix's continuations are told by the widest gap above them.

    Args:
        rows: (K,) the prefix of each pair, ascending.
        excess: (K,) distances over a threshold that only unrelated vectors are far above.
        reach: what no continuation is beyond.
        sure: what hardly any other stays below.
        apart: how much farther than the continuations of a prefix all others are.
    """
    inside = excess < min(reach, sure)
    for row in sorted(set(rows.tolist())):
        places = (rows == row).nonzero().flatten()
        values, order = excess[places].sort()
        gaps = torch.cat([values[1:], values.new_ones(1)]).clamp_max(1.0) / values
        widest = int(gaps.argmax())
        if gaps[widest] >= apart and values[widest] < min(reach, 1.0):
            inside[places[order[: widest + 1]]] = True
    return inside
