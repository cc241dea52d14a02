"""Algorithm 2 of DAGER: which prefixes go on, and with which tokens.

Source:      Petrov et al., NeurIPS 2024, arXiv:2405.15586v2, algorithm 2. Where noise is known a
             pair passes below its own threshold, as there; where it is not, gaps tell (ours).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Notes
from attacks.dager import thresholds
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
        self.crowd = thresholds.CROWD * max(self.examples, thresholds.CROWD_EXAMPLES)
        if self.examples and self.check.vague:  # no more sentences than examples go on
            self.max_prefixes = min(self.max_prefixes, self.crowd)

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
        if len(inside) > self.max_prefixes:
            self.notes["cut"] = True
            closest = excess[inside].topk(self.max_prefixes, largest=False).indices
            inside = inside[closest.sort().values]
        self._excess = excess[inside].tolist()
        self.notes["prefixes"] = self.notes.get("prefixes", 0) + len(inside)
        return chosen[inside]

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

    def ranked(self, prefixes: list[Tokens]) -> tuple[Tokens, ...]:
        """Return ``prefixes``, those first whose farthest token is closest to the span.

        Where noise is not known most are false: only some for each of the client's examples stay.
        """
        if self.check.vague or len(prefixes) > self.examples:
            prefixes = sorted(prefixes, key=lambda prefix: self._far.get(prefix, 0.0))
        if self.check.vague and self.examples and len(prefixes) > self.crowd:
            self.notes["cut"], prefixes = True, prefixes[: self.crowd]
        return tuple(prefixes)

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
