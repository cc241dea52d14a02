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
from attacks.dager.tokens import TokenSets
from fedsim.messages import Observation
from fedsim.models import Opening, Trunk


@dataclass(frozen=True)
class Gates:
    """Algorithm 1's token sets, and what algorithm 2 checks, at the broadcast weights.

    Attributes:
        opening: block 0.
        entry: to the span of its inputs.
        tokens: the tokens that fit each position.
        inner: tells what block 0's MLP, or block 1, may read.
        trunk: the blocks up to the one that ``inner`` is of; None where that is block 0's MLP.
    """

    opening: Opening
    entry: Gate
    tokens: TokenSets
    inner: Gate
    trunk: Trunk | None

    def check(self, generator: torch.Generator) -> PrefixCheck:
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
        return self.entry.span.distance(self.opening.inputs(tokens, positions))


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
    entry = input_span(observation, 0)
    _note(notes, "0", entry)
    middle = uses_middle(observation)
    inner = input_span(observation, 0, "middle") if middle else input_span(observation, 1)
    if middle and not inner.rank and observation.model.causal and shows(observation, 1, "hidden"):
        middle, inner = False, input_span(observation, 1)
    _note(notes, "1", inner)
    return Spans(entry, inner, middle)


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
    return few and shows(observation, 0, "middle")


def open_gates(observation: Observation, spans: Spans, generator: torch.Generator) -> Gates:
    """Return the gates to ``spans``; random tokens show what is far."""
    model, entry, inner = observation.model, spans.entry, spans.inner
    opening = model.opening(observation.broadcast.parameters)
    size = (thresholds.RANDOM_TOKENS,)
    random = torch.randint(model.vocabulary, size, generator=generator)
    start = torch.zeros_like(random)
    loose = model.causal and not entry.drifting
    share = thresholds.LOOSE if loose else thresholds.SHARE
    outer = open_gate(entry, opening.inputs(random, start), thresholds.ENTRY_FACTOR, share)
    tokens = TokenSets(opening, outer, generator)
    if spans.middle:
        trunk, unrelated = None, opening.middle(opening.residual(random, start))
    else:
        (trunk,) = model.trunks(observation.broadcast.parameters, 1)
        unrelated = trunk.inputs(random[:, None])[0][:, 0]
    gate = open_gate(inner, unrelated, thresholds.INNER_FACTOR, thresholds.SHARE)
    return Gates(opening, outer, tokens, gate, trunk)


def middles(opening: Opening, tokens: Tensor) -> Tensor:
    """Return what block 0's MLP reads of sentences ``tokens`` (N, T): (N, T, D)."""
    count, length = tokens.shape
    flat, positions = tokens.flatten(), torch.arange(length).repeat(count)
    heads = opening.heads(opening.inputs(flat, positions), positions)
    q, k, v = (head.reshape(count, length, *head.shape[1:]) for head in heads)
    k, v = (head.repeat_interleave(q.shape[2] // head.shape[2], dim=2) for head in (k, v))
    weights = torch.einsum("nthe,nshe->nhts", q * opening.scale, k).softmax(dim=-1)
    contexts = torch.einsum("nhts,nshe->nthe", weights, v).flatten(2)
    output = (contexts @ opening.output + opening.output_bias).flatten(0, 1)
    read: Tensor = opening.middle(output + opening.residual(flat, positions))
    return read.view(count, length, -1)
