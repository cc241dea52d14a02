"""Read a batch exactly off the gradients of the first attention layers.

Source:      Petrov, Dimitrov, Baader, Müller, Vechev, "DAGER: Exact Gradient Inversion for Large
             Language Models", NeurIPS 2024, arXiv:2405.15586v2, algorithms 1 and 2.
Assumes:     fewer distinct prefixes in the batch (of an encoder: tokens) than its width D less the
             span's SPARE (20 of 768 dimensions, an eighth of few), or than LoRA's rank less as
             much; an update of q, k, v of block 0, and of block 0's MLP or q, k, v of block 1. No
             labels, no lengths, no batch size, no prior.
Recovers:    every sequence, exactly: of a decoder with multiplicities, with those that begin others
             and with a next-token loss' last tokens, where the last block's MLP is in the update
             (endings.py); of an encoder the distinct ones (encoder.py). Without learned positions
             or a BOS, none that begins with a token twice.
Deviations:  q, k and v are stacked, each divided by its own noise (the paper's q alone never sees
             position 0); rank and thresholds come from each layer's own spectrum, a threshold for
             each token (the paper: absolute constants, the rank's by batch size); the new position
             alone is checked, on cached prefixes, as earlier ones were before; block 0's MLP input
             is looked at in place of block 1's input where the update shows it (prefixes.py); all
             positions of algorithm 1 share one product with the vocabulary (tokens.py).
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from attacks.attention import middles
from attacks.base import Attack, Notes
from attacks.counts import counted
from attacks.encoder import read_encoder
from attacks.endings import read_endings
from attacks.inputs import input_span, shows
from attacks.prefixes import BlockCheck, Check, MiddleCheck
from attacks.span import SURE, Span, open_gate
from attacks.tokens import TokenSets
from fedsim.messages import Observation, Reconstruction, Tokens
from fedsim.models import Trunk

logger = logging.getLogger("fedsim.attacks")

IN_FULL = 20  # what computing a pair in full costs, in pairs that the sketch discards
APART = 2.0  # how much farther than the true continuations of a prefix all others are
OFF = 10.0  # how much farther than usual a continuation may be that a gap tells
SAMPLE = 512  # random tokens that show how far from a span is far
FACTORS = (100.0, 16.0)  # thresholds over the expected distance; the search sorts out a surplus


@dataclass(frozen=True, kw_only=True)
class Dager(Attack):
    """Keep the tokens in the span of block 0's inputs, then the prefixes in that of its MLP's."""

    max_prefixes: int = 1024  # prefixes kept per position, closest first; > 0
    max_pairs: int = 5_000_000  # (prefix, token) pairs before the search is cut short; > 0
    max_searches: int = 200  # searches for one more sentence of an encoder's batch; > 0

    families: ClassVar[tuple[str, ...]] = ("gpt2", "llama", "bert")

    def __post_init__(self) -> None:
        for name in ("max_prefixes", "max_pairs", "max_searches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")

    @override
    def _run(self, seen: Observation, generator: torch.Generator) -> Reconstruction:
        notes: Notes = {"pairs_checked": 0, "pairs_in_full": 0, "cut": False}
        notes |= {"counted": False, "best_effort": True}
        entry = noted(notes, "0", input_span(seen, 0))
        middle = uses_middle(seen)
        inner = input_span(seen, 0, "middle") if middle else input_span(seen, 1)
        noted(notes, "1", inner)
        if not entry.rank or not inner.rank:
            return Reconstruction(sequences=(), diagnostics=notes)
        if not seen.model.causal:
            found, more = self._encoder(seen, entry, inner, middle, generator)
            return Reconstruction(sequences=found, diagnostics=notes | more)
        tokens, check = prepare(seen, entry, inner, middle, generator)
        search = Search(tokens=tokens, check=check, attack=self, notes=notes)
        found = tuple(search.run(seen.model.prefix, seen.model.positions))
        return Reconstruction(sequences=finished(seen, found, check, notes), diagnostics=notes)

    def _encoder(
        self, seen: Observation, entry: Span, inner: Span, middle: bool, generator: torch.Generator
    ) -> tuple[tuple[Tokens, ...], Notes]:
        model, parameters = seen.model, seen.broadcast.parameters
        opening = model.opening(parameters)
        random = torch.randint(model.vocabulary, (SAMPLE,), generator=generator)
        start = torch.zeros_like(random)
        gate = open_gate(entry, opening.inputs(random, start), FACTORS[0])
        tokens = TokenSets(opening, gate, generator)
        if middle:
            inputs = partial(middles, opening)
            unrelated = opening.middle(opening.residual(random, start))
        else:
            (trunk,) = model.trunks(parameters, 1)
            inputs = partial(whole_inputs, trunk)
            unrelated = trunk.inputs(random[:, None])[0][:, 0]
        places = (opening, tokens.at, inputs, open_gate(inner, unrelated, FACTORS[1]))
        found, notes = read_encoder(seen, *places, generator, self.max_searches)
        told = counted(seen, found)
        if told is None:
            return found, notes
        complete = told.clear and not notes["best_effort"]
        notes |= {"explained": told.explained, "counted": told.counted}
        notes["best_effort"] = not (told.counted or complete)
        return told.sequences, notes


def uses_middle(seen: Observation) -> bool:
    """Return whether what block 0's MLP reads is looked at, not what block 1 reads.

    An encoder's last block tells of few tokens: its gradient is that of [CLS]' queries alone.
    """
    few = seen.model.causal or seen.model.layers <= 2 or not shows(seen, 1, "hidden")
    return few and shows(seen, 0, "middle")


def whole_inputs(trunk: Trunk, tokens: Tensor) -> Tensor:
    """Return what block 1 reads of a sentence ``tokens`` (T,): (T, D)."""
    return trunk.inputs(tokens[None])[0][0]


def finished(
    seen: Observation, found: tuple[Tokens, ...], check: Check, notes: Notes
) -> tuple[Tokens, ...]:
    """Return ``found`` as the last MLP tells their ends and counts, and note how sure that is.

    It need not be asked where the prefixes are as many as the inputs that the span shows, and the
    sentences as many as the client's examples.
    """
    prefixes = {one[:stop] for one in found for stop in range(1, len(one) + 1)}
    classifies = seen.model.spec.task == "classification"
    whole = classifies and len(found) == seen.update.num_examples
    if whole and len(prefixes) == notes["rank_1"] and not (check.vague or notes["cut"]):
        notes |= {"counted": True, "best_effort": False}
        return found
    endings = read_endings(seen, found)
    if endings is None:
        return found
    notes |= {"explained": endings.explained, "counted": endings.counted}
    notes["best_effort"] = not endings.counted
    return endings.sequences


def noted(notes: Notes, name: str, span: Span) -> Span:
    """Return ``span``, after its rank and how clear it is were added to ``notes``."""
    notes |= {f"rank_{name}": span.rank, f"blurred_{name}": span.blurred}
    notes |= {f"saturated_{name}": span.saturated, f"floor_{name}": span.floor}
    return span


def prepare(
    seen: Observation, entry: Span, inner: Span, middle: bool, generator: torch.Generator
) -> tuple[TokenSets, Check]:
    """Return algorithm 1's token sets and algorithm 2's check, at the broadcast weights."""
    model = seen.model
    opening = model.opening(seen.broadcast.parameters)
    random = torch.randint(model.vocabulary, (SAMPLE,), generator=generator)
    start = torch.zeros_like(random)
    gate = open_gate(entry, opening.inputs(random, start), FACTORS[0])
    tokens = TokenSets(opening, gate, generator)
    if middle:
        unrelated = opening.middle(opening.residual(random, start))
        return tokens, MiddleCheck(opening, open_gate(inner, unrelated, FACTORS[1]), generator)
    (trunk,) = model.trunks(seen.broadcast.parameters, 1)
    unrelated = trunk.inputs(random[:, None])[0][:, 0]
    return tokens, BlockCheck(trunk, open_gate(inner, unrelated, FACTORS[1]))


def stand_out(rows: Tensor, excess: Tensor, usual: float) -> Tensor:
    """Return which pairs are inside a span that is blurred: (K,), bool.

    Where noise is not known, a prefix's continuations are told by the widest gap above them.

    Args:
        rows: (K,) the prefix of each pair, ascending.
        excess: (K,) distances over a threshold that only unrelated vectors are far above.
        usual: what most continuations that were found so far stayed below.
    """
    inside = excess < min(OFF * usual, SURE)
    for row in sorted(set(rows.tolist())):
        places = (rows == row).nonzero().flatten()
        values, order = excess[places].sort()
        gaps = torch.cat([values[1:], values.new_ones(1)]).clamp_max(1.0) / values
        widest = int(gaps.argmax())
        if gaps[widest] >= APART and values[widest] < min(OFF * usual, 1.0):
            inside[places[order[: widest + 1]]] = True
    return inside


@dataclass(kw_only=True)
class Search:
    """Algorithm 2: prefixes grown token by token while the new position stays in the span."""

    tokens: TokenSets
    check: Check
    attack: Dager
    notes: Notes

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
            if work > self.attack.max_pairs:
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
        if len(inside) > self.attack.max_prefixes:
            self.notes["cut"] = True
            closest = excess[inside].topk(self.attack.max_prefixes, largest=False).indices
            inside = inside[closest.sort().values]
        return chosen[inside]

    def _inside(self, rows: Tensor, excess: Tensor) -> Tensor:
        """Return which pairs pass: (K,), bool."""
        if not self.check.vague:
            return excess < 1.0
        usual = float(self._passed.quantile(0.9)) if len(self._passed) else 1.0
        inside = stand_out(rows, excess, usual)
        self._passed = torch.cat([self._passed, excess[inside]])
        return inside

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
