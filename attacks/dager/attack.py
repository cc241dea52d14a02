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

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from attacks.base import Attack, Notes
from attacks.dager.counts import counted
from attacks.dager.encoder.attention import middles
from attacks.dager.encoder.search import read_encoder
from attacks.dager.encoder.witness import Witness
from attacks.dager.endings import read_endings
from attacks.dager.inputs import input_span, shows
from attacks.dager.prefixes import BlockCheck, Check, MiddleCheck
from attacks.dager.search import Search
from attacks.dager.span import SHARE, Gate, Span, open_gate
from attacks.dager.tokens import TokenSets
from fedsim.messages import Observation, Reconstruction
from fedsim.models import Opening, Trunk
from fedsim.types import Tokens

SAMPLE = 512  # random tokens that show how far from a span is far
CROWD = 2  # prefixes kept for each example that the client states, of a gradient whose noise lets
# false ones through; where it states too few, some are lost (``cut``)
LOOSE = 0.7  # of an unrelated vector's distance: a decoder's first threshold where noise drowns the
# weak tokens of a gradient; the search looks closer
FACTORS = (100.0, 16.0)  # thresholds over the expected distance; the search sorts out a surplus


@dataclass(frozen=True, kw_only=True)
class Dager(Attack):
    """Keep the tokens in the span of block 0's inputs, then the prefixes in that of its MLP's."""

    max_prefixes: int = 1024  # kept per position, closest first, fewer under rounding: CROWD; > 0
    max_pairs: int = 5_000_000  # (prefix, token) pairs before the search is cut short; > 0
    max_searches: int = 200  # searches for one more sentence of an encoder's batch; > 0

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
        inner = noted(notes, "1", input_span(seen, 0, "middle") if middle else input_span(seen, 1))
        if not entry.rank or not inner.rank:
            return Reconstruction(sequences=(), diagnostics=notes)
        gates = open_gates(seen, entry, inner, middle, generator)
        read = self._decoder if seen.model.causal else self._encoder
        return Reconstruction(sequences=read(seen, gates, notes, generator), diagnostics=notes)

    def _decoder(
        self, seen: Observation, gates: "Gates", notes: Notes, generator: torch.Generator
    ) -> tuple[Tokens, ...]:
        check = gates.check(generator)
        most = self.max_prefixes
        told = seen.update.num_examples  # 0: the client does not say
        if told and check.vague and not check.drifting:  # no more sentences than examples go on
            most = min(most, CROWD * max(told, 2))
        limits = {"max_prefixes": most, "max_pairs": self.max_pairs}
        search = Search(tokens=gates.tokens, check=check, notes=notes, **limits)
        found = tuple(search.run(seen.model.prefix, seen.model.positions))
        return finished(seen, found, check, notes)

    def _encoder(
        self, seen: Observation, gates: "Gates", notes: Notes, generator: torch.Generator
    ) -> tuple[Tokens, ...]:
        witness = Witness(gates.inputs, gates.inner)
        places = (gates.opening, gates.tokens.at, gates.near, witness)
        found, more = read_encoder(seen, *places, generator, self.max_searches)
        notes |= more
        told = counted(seen, found)
        if told is None:
            return found
        complete = told.clear and not notes["best_effort"]
        notes |= {"explained": told.explained, "counted": told.counted}
        notes["best_effort"] = not (told.counted or complete)
        return told.sequences


@dataclass(frozen=True)
class Gates:
    """Algorithm 1's token sets, and what algorithm 2 checks, at the broadcast weights.

    Attributes:
        opening: block 0.
        entry: the span of its inputs.
        tokens: the tokens that fit each position.
        inner: tells what block 0's MLP, or block 1, may read.
        trunk: the blocks up to the one that ``inner`` is of; None where that is block 0's MLP.
    """

    opening: Opening
    entry: Span
    tokens: TokenSets
    inner: Gate
    trunk: Trunk | None

    def check(self, generator: torch.Generator) -> Check:
        """Return the check of prefixes."""
        if self.trunk is None:
            return MiddleCheck(self.opening, self.inner, generator)
        return BlockCheck(self.trunk, self.inner)

    def inputs(self, tokens: Tensor) -> Tensor:
        """Return what ``inner`` looks at, of sentences ``tokens`` (N, T): (N, T, D)."""
        if self.trunk is None:
            return middles(self.opening, tokens)
        return self.trunk.inputs(tokens)[0]

    def near(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return how far the inputs of (token, position) pairs are from block 0's span: (N,)."""
        return self.entry.distance(self.opening.inputs(tokens, positions))


def open_gates(
    seen: Observation, entry: Span, inner: Span, middle: bool, generator: torch.Generator
) -> Gates:
    """Return the gates to the spans ``entry`` and ``inner``; random tokens show what is far."""
    model = seen.model
    opening = model.opening(seen.broadcast.parameters)
    random = torch.randint(model.vocabulary, (SAMPLE,), generator=generator)
    start = torch.zeros_like(random)
    share = LOOSE if model.causal and not entry.drifting else SHARE
    gate = open_gate(entry, opening.inputs(random, start), FACTORS[0], share)
    tokens = TokenSets(opening, gate, generator)
    trunk = None if middle else model.trunks(seen.broadcast.parameters, 1)[0]
    if trunk is None:
        unrelated = opening.middle(opening.residual(random, start))
    else:
        unrelated = trunk.inputs(random[:, None])[0][:, 0]
    return Gates(opening, entry, tokens, open_gate(inner, unrelated, FACTORS[1]), trunk)


def uses_middle(seen: Observation) -> bool:
    """Return whether what block 0's MLP reads is looked at, not what block 1 reads.

    An encoder's last block tells of few tokens: its gradient is that of [CLS]' queries alone.
    """
    few = seen.model.causal or seen.model.layers <= 2 or not shows(seen, 1, "hidden")
    return few and shows(seen, 0, "middle")


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
