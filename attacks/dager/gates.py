"""What algorithms 1 and 2 ask: the spans of an update's two layers, and what lies in each.

Source:      Petrov et al., NeurIPS 2024, arXiv:2405.15586v2, equation 2. The paper's thresholds
             tau_1 and tau_2 are constants; here a gate has one for every vector (span.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Notes
from attacks.dager import thresholds
from attacks.dager.inputs import input_span, shows
from attacks.dager.prefixes import BlockCheck, MiddleCheck, PrefixCheck
from attacks.dager.span import Gate, Span, open_gate
from attacks.dager.tokens import RunTokens, TokenSets
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation
from fedsim.models import Attending, Embedded, Entrance, ModelAdapter, Trunk


@dataclass(frozen=True)
class Gates:
    """Algorithm 1's token sets, and what algorithm 2 checks, at the broadcast weights.

    Attributes:
        opening: block 0 in the open; None where the model's graph alone is known.
        single: what block 0 reads of single tokens.
        entry: to the span of that.
        tokens: the tokens that fit each position.
        inner: tells what block 0's MLP, or block 1, may read.
        trunk: the blocks up to the one that ``inner`` is of; None where that is block 0's MLP.
    """

    opening: Attending | None
    single: Entrance
    entry: Gate
    tokens: TokenSets | RunTokens
    inner: Gate
    trunk: Trunk | None

    def check(self, generator: torch.Generator) -> PrefixCheck:
        """Return the check of prefixes."""
        if self.trunk is not None:
            return BlockCheck(self.trunk, self.inner)
        assert self.opening is not None
        return MiddleCheck(self.opening, self.inner, generator)

    def inputs(self, tokens: Tensor) -> Tensor:
        """Return what ``inner`` looks at, of sentences ``tokens`` (N, T): (N, T, D)."""
        if self.trunk is not None:
            return self.trunk.inputs(tokens)[0]
        assert self.opening is not None
        return self.opening.middles(tokens, causal=False)

    def near(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return how far the inputs of (token, position) pairs are from block 0's span: (N,)."""
        return self.entry.span.distance(self.single.inputs(tokens, positions))


@dataclass(frozen=True)
class Spans:
    """The spans of what two layers read: block 0, and its MLP (``middle``) or block 1."""

    entry: Span
    inner: Span
    middle: bool


def find_spans(observation: Observation, notes: Notes) -> Spans:
    """Return the spans of what block 0 read, and of what its MLP or block 1 read.

    Their ranks and how clear they are go into ``notes``.
    """
    if observation.model.layers < 2 and not uses_middle(observation):
        raise UnsupportedObservation(
            f"dager needs a second layer that reads what attention made, but {observation.model!r} "
            "has one block, and its MLP shows nothing of that"
        )
    entry = input_span(observation, 0)
    _note(notes, "0", entry)
    middle = uses_middle(observation)
    inner = input_span(observation, 0, "middle") if middle else input_span(observation, 1)
    if middle and not inner.rank and observation.model.causal and shows(observation, 1, "hidden"):
        middle, inner = False, input_span(observation, 1)
    _note(notes, "1", inner)
    return Spans(entry, inner, middle)


def runs_again(model: ModelAdapter) -> bool:
    """Return whether block 0 runs several times (ALBERT): its span is of all that it read then."""
    return model.layers < (getattr(model.config, "num_hidden_layers", None) or 0)


def _note(notes: Notes, layer: str, span: Span) -> None:
    notes |= {f"rank_{layer}": span.rank, f"blurred_{layer}": span.blurred}
    notes |= {f"saturated_{layer}": span.saturated, f"floor_{layer}": span.floor}
    notes |= {f"faintest_{layer}": span.faintest}


def uses_middle(observation: Observation) -> bool:
    """Return whether what block 0's MLP reads is looked at, not what block 1 reads.

    An encoder's last block tells of few tokens: its gradient is that of [CLS]' queries alone.
    """
    model = observation.model
    few = model.causal or model.layers <= 2 or not shows(observation, 1, "hidden")
    return few and model.mixes and shows(observation, 0, "middle")


def open_gates(observation: Observation, spans: Spans, generator: torch.Generator) -> Gates:
    """Return the gates to ``spans``; random tokens show what is far."""
    model, sent, entry = observation.model, observation.broadcast.parameters, spans.entry
    opening = model.opening(sent)
    single = opening or model.entry(sent)
    size = (thresholds.RANDOM_TOKENS,)
    random = torch.randint(model.vocabulary, size, generator=generator)
    start = torch.zeros_like(random)
    loose = model.causal and not entry.drifting
    share = thresholds.LOOSE if loose else thresholds.SHARE
    factor = thresholds.ENTRY_FACTOR * (thresholds.SHARED if runs_again(model) else 1.0)
    outer = open_gate(entry, single.inputs(random, start), factor, share)
    tokens: TokenSets | RunTokens
    if isinstance(single, Embedded):
        tokens = TokenSets(single, outer, generator)
    else:
        tokens = RunTokens(single, model.vocabulary, outer, generator)
    trunk = None
    if not spans.middle:
        (trunk,) = model.trunks(sent, 1)
    elif opening is None:
        trunk = model.middle(sent)
    if trunk is not None:
        unrelated = trunk.inputs(random[:, None])[0][:, 0]
    else:
        assert opening is not None
        unrelated = opening.middle(opening.residual(random, start))
    inner = open_gate(spans.inner, unrelated, thresholds.INNER_FACTOR, thresholds.SHARE)
    return Gates(opening, single, outer, tokens, inner, trunk)
