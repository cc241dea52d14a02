"""Algorithm 2 of DAGER: sentences grown token by token, as long as their ends stay in the span.

Source:      Petrov et al., NeurIPS 2024, arXiv:2405.15586v2, algorithm 2.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Notes
from attacks.dager.prefixes import Check
from attacks.dager.span import STILL, SURE
from attacks.dager.tokens import TokenSets
from fedsim.types import Tokens

logger = logging.getLogger("fedsim.attacks")

IN_FULL = 20  # what computing a pair in full costs, in pairs that the sketch discards
APART = 2.0  # how much farther than the true continuations of a prefix all others are
OFF = 10.0  # how much farther than most a continuation may be, where inputs drift
STILL_OFF = 6.0  # and than half of them, where they do not
STILL_APART = 1.6  # there; chosen on six batches each of three data sets under int8


@dataclass(kw_only=True)
class Search:
    """Prefixes that grow token by token while the new position stays in the span.

    Attributes:
        tokens: the tokens that fit each position.
        check: tells whether a prefix's new end is in the span.
        notes: counts the pairs that were checked; says when the search was cut short.
        max_prefixes: prefixes kept per position, closest first.
        max_pairs: (prefix, token) pairs before the search is cut short.
    """

    tokens: TokenSets
    check: Check
    notes: Notes
    max_prefixes: int
    max_pairs: int

    def __post_init__(self) -> None:
        self._passed = torch.empty(0)  # the excess of all pairs that passed

    def run(self, start: Tokens, positions: int) -> list[Tokens]:
        """Return each sequence that begins with ``start`` and that nothing can follow."""
        prefixes, ended = [start], list[Tokens]()
        self.check.begin(start)
        for position in range(len(start), positions):
            candidates = self.tokens.at(position)
            chosen = self._extensions(prefixes, candidates, position)
            extended = set(chosen[:, 0].tolist())
            ended += [one for row, one in enumerate(prefixes) if row not in extended]
            if not extended:
                break
            work = self.notes["pairs_checked"] + IN_FULL * self.notes["pairs_in_full"]
            if work > self.max_pairs:
                self.notes["cut"] = True
                break
            self.check.advance(chosen)
            ids = candidates.tolist()
            prefixes = [(*prefixes[row], ids[place]) for row, place in chosen.tolist()]
            logger.info("position %d: %d prefixes", position + 1, len(prefixes))
        else:
            ended += prefixes
        return [one for one in ended if len(one) > len(start)]

    def _extensions(self, prefixes: list[Tokens], candidates: Tensor, position: int) -> Tensor:
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
        return chosen[inside]

    def _inside(self, rows: Tensor, excess: Tensor) -> Tensor:
        """Return which pairs pass: (K,), bool."""
        if not self.check.vague:
            return excess < 1.0
        drifting = self.check.drifting
        sure, apart = (SURE, APART) if drifting else (STILL, STILL_APART)
        inside = stand_out(rows, excess, self._reach(excess), sure, apart)
        self._passed = torch.cat([self._passed, excess[inside]])
        return inside

    def _reach(self, excess: Tensor) -> float:
        """Return how far a continuation may be, by those that were found so far."""
        if self.check.drifting:
            return OFF * float(self._passed.quantile(0.9)) if len(self._passed) else OFF
        known = self._passed if len(self._passed) else excess.sort().values[:1]
        return STILL_OFF * float(known.median()) if len(known) else STILL_OFF

    def _pairs(self, prefixes: list[Tokens], candidates: Tensor) -> Tensor:
        """Return which (prefix, token) pairs to check: (N, C), bool.

        Rotary attention over copies of one token gives what one copy gives, so without learned
        positions "x x" looks like "x": a prefix of copies is not extended by another.
        """
        pairs = torch.ones(len(prefixes), len(candidates), dtype=torch.bool)
        if self.tokens.positions == 1:
            copies = [one[0] if len(set(one)) == 1 else -1 for one in prefixes]
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
