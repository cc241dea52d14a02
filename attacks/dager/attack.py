"""Read a batch exactly off the gradients of the first attention layers.

Source:      Petrov, Dimitrov, Baader, Müller, Vechev, "DAGER: Exact Gradient Inversion for Large
             Language Models", NeurIPS 2024, arXiv:2405.15586v2, algorithms 1 and 2.
Assumes:     fewer distinct prefixes in the batch (of an encoder: tokens) than its width D less the
             span's SPARE (20 of 768 dimensions, an eighth of few), or than LoRA's rank less as
             much; an update of q, k, v of block 0, and of block 0's MLP or q, k, v of block 1. No
             labels, no lengths, no batch size, no prior.
Recovers:    every sequence, exactly: of a decoder with multiplicities, with those that begin others
             and with a next-token loss' last tokens, where the last block's MLP is in the update
             (endings.py); of an encoder the distinct ones (encoder/). Without learned positions
             or a BOS, none that begins with a token twice.
Deviations:  q, k and v are stacked, each divided by its own noise (the paper's q alone never sees
             position 0); rank and thresholds come from each layer's own spectrum, a threshold for
             each token (the paper: absolute constants, the rank's by batch size); the new position
             alone is checked, on cached prefixes, as earlier ones were before; block 0's MLP input
             is looked at in place of block 1's input where the update shows it (prefixes.py); all
             positions of algorithm 1 share one product with the vocabulary (tokens.py).

The paper's words, in its order (plain.py has both algorithms as they stand there):

    theorem 5.1   the columns of dL/dW span what W read         spectrum.py, inputs.py
    equation 2    d(z): how far z is from that span             span.py, gates.py
    algorithm 1   T_i: tokens v with d(f0(v, i)) < tau_1        tokens.py
    algorithm 2   S_i: prefixes s v with d(f1(s v)) < tau_2     search.py, prefixes.py

The paper's layers 1 and 2 are blocks 0 and 1 here. What S_i cannot tell is ours: where sequences
end, how often each was there (endings.py, counts.py), encoders' sentences (encoder/). Every number
that was tuned or measured stands in thresholds.py.

How sure the sequences are is in the diagnostics. They come surest first, and where they are not
known to be there, no more of them than the client says that it has examples, but for those that are
clearly in both spans:

    counted       they are the batch, each as often as it was there
    best_effort   they are not known to be that
    above_floor   how many of the examples stated they stand for, at the least: those whose
                  gradients are above the update's rounding
    alike         how many of them hold a token that is embedded or predicted as another one, or
                  copies that are seen as one, or stand in an order that others come near: other
                  texts would have given the same update
    masked        of masked-lm, which is never sure: how many places hold the mask token
    unread        inputs stand out of the noise that no sure reading accounts for
    cut           the search ended at one of its limits
    dropped       how many sequences it left out, as more than the examples stated
"""

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch
from typing_extensions import override

from attacks.base import Attack, Notes
from attacks.dager.alike import Alike
from attacks.dager.encoder.heads import orders_tell, with_counts
from attacks.dager.encoder.search import read_encoder
from attacks.dager.encoder.unordered import orderless, read_tokens
from attacks.dager.endings import Leaves, with_endings
from attacks.dager.gates import Gates, find_spans, open_gates, runs_again
from attacks.dager.search import PrefixSearch
from fedsim.messages import Observation, Reconstruction
from fedsim.types import Tokens

logger = logging.getLogger("fedsim.attacks")


@dataclass(frozen=True, kw_only=True)
class Dager(Attack):
    """Keep the tokens in the span of block 0's inputs, then the prefixes in that of its MLP's."""

    kind: ClassVar = "span"
    needs_loss: ClassVar = False
    max_prefixes: int = 1024  # kept per position, closest first, fewer under rounding; > 0
    max_pairs: int = 5_000_000  # (prefix, token) pairs before the search is cut short; > 0
    max_searches: int = 200  # searches for one more sentence of an encoder's batch; > 0

    def __post_init__(self) -> None:
        for name in ("max_prefixes", "max_pairs", "max_searches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        notes: Notes = {"pairs_checked": 0, "pairs_in_full": 0, "cut": False, "dropped": 0}
        notes |= {"counted": False, "best_effort": True, "unread": False, "above_floor": 0}
        # Theorem 5.1: the columns of dL/dW lie in the span of what W read, and fill it.
        spans = find_spans(observation, notes)
        if not spans.entry.rank or not spans.inner.rank:
            notes["unread"] = bool(spans.entry.rank or spans.inner.rank)
            return Reconstruction(sequences=(), diagnostics=notes)
        # Equation 2: d is the sine of the angle to a span, tau what noise makes of an input's own.
        gates = open_gates(observation, spans, generator)
        if observation.model.causal:
            sequences = self._sequences(observation, gates, notes, generator)
        else:  # Section 5.2: every token sees every other, so no prefix can be told alone
            sequences = read_encoder(observation, gates, notes, generator, self.max_searches)
            again = runs_again(observation.model)  # then the spans hold more than these inputs
            notes["best_effort"] = bool(notes["best_effort"]) or again
            trusted = not (again or orderless(gates))
            sequences = with_counts(observation, sequences, notes, trusted=trusted)
            if trusted and notes["counted"] and not orders_tell(gates, sequences):
                notes |= {"counted": False, "best_effort": True}
            if not sequences and orderless(gates):
                sequences = read_tokens(observation.model, gates, notes)
        notes["unread"] = notes["best_effort"]
        return Reconstruction(sequences=sequences, diagnostics=notes)

    def _sequences(
        self, observation: Observation, gates: Gates, notes: Notes, generator: torch.Generator
    ) -> tuple[Tokens, ...]:
        """Algorithm 2, which asks algorithm 1 position by position."""
        search = PrefixSearch(
            gates=gates,
            check=gates.check(generator),
            notes=notes,
            examples=observation.update.num_examples,
            max_prefixes=self.max_prefixes,
            max_pairs=self.max_pairs,
        )
        start = observation.model.prefix  # BOS, or nothing
        S_i, ended = search.begin(start), list[Tokens]()
        for i in range(len(start), observation.model.positions):
            T_i = gates.tokens.at(i)  # Algorithm 1: {v : d(f0(v, i)) < tau_1}
            pairs = search.extensions(S_i, T_i, i)  # {s v : s in S_i, v in T_i, d(f1(s v)) < tau_2}
            extended = set(pairs[:, 0].tolist())
            ended += [s for row, s in enumerate(S_i) if row not in extended]
            S_i = search.advance(S_i, T_i, pairs) if extended else []
            if not S_i or search.exhausted():
                break
            logger.info("position %d: %d prefixes", i + 1, len(S_i))
        found = search.ranked([s for s in ended + S_i if len(s) > len(start)])
        leaves = Leaves(
            sequences=found,
            sound=not (search.check.vague or notes["cut"]),
            alike=Alike(frozenset(search.twins), gates.single.positions == 1 and not start),
            clear=search.clear(found),
        )
        return with_endings(observation, leaves, notes)
