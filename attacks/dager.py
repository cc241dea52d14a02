"""Read a batch exactly off the gradients of the first two attention layers.

Source:      Petrov, Dimitrov, Baader, Müller, Vechev, "DAGER: Exact Gradient Inversion for Large
             Language Models", NeurIPS 2024, arXiv:2405.15586v2, algorithms 1 and 2.
Assumes:     a decoder (for encoders see ``attacks.encoder``); distinct prefixes in the batch below
             its width D less the span's SPARE (20 of 768 dimensions, an eighth of few); an update
             whose q, k, v weights of blocks 0 and 1 are there and nearly free of noise. No labels,
             no lengths, no batch size, no prior.
Recovers:    every distinct sequence, exactly. Equal sequences once; one that is a prefix of another
             not at all; of a next-token loss all but each last token, which the output layer alone
             saw. Without learned positions or a BOS, none that begins with a token twice.
Deviations:  q, k and v are stacked, each divided by its own noise (the paper's q alone never sees
             position 0); rank and thresholds come from each layer's own spectrum, a threshold for
             each token (the paper: absolute constants, the rank's by batch size);
             the new position alone is checked, on cached prefixes, as earlier ones were before; a
             sketch of the complement discards most of the vocabulary before the exact check.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache
from typing_extensions import override

from attacks.base import Attack
from attacks.encoder import read_encoder
from attacks.span import Gate, find_span, open_gate, sketch
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation, Reconstruction, Tokens
from fedsim.models import ModelAdapter, Trunk, select

logger = logging.getLogger("fedsim.attacks")

PAIRS = 1024  # (prefix, token) pairs run through block 0 at a time
CHUNK = 8192  # candidate tokens embedded at a time
SAMPLE = 512  # random tokens that show how far from a span is far
MARGIN = 2.0  # the sketch keeps what it estimates below this many thresholds: four of its errors
FACTORS = (
    100.0,
    16.0,
)  # thresholds over the expected distance; block 1 sorts out block 0's surplus


@dataclass(frozen=True, kw_only=True)
class Dager(Attack):
    """Keep the tokens in the span of block 0's inputs, then the prefixes in that of block 1's."""

    max_prefixes: int = 1024  # prefixes kept per position, closest first; > 0
    max_pairs: int = 500_000  # (prefix, token) pairs checked before the search is cut short; > 0

    max_searches: int = 200  # searches for one more sentence of an encoder's batch; > 0

    families: ClassVar[tuple[str, ...]] = ("gpt2", "llama", "bert")

    def __post_init__(self) -> None:
        for name in ("max_prefixes", "max_pairs", "max_searches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")

    @override
    def _run(self, seen: Observation, generator: torch.Generator) -> Reconstruction:
        model = seen.model
        spans = [find_span(input_gradients(seen, layer)) for layer in (0, 1)]
        notes: dict[str, bool | int | float] = {"pairs_checked": 0, "cut": False}
        for layer, span in enumerate(spans):
            notes |= {f"rank_{layer}": span.rank, f"blurred_{layer}": span.blurred}
        if not all(span.rank for span in spans):
            return Reconstruction(sequences=(), diagnostics=notes)
        opening = model.opening(seen.broadcast.parameters)
        trunks = model.trunks(seen.broadcast.parameters, 0, 1)
        random = torch.randint(model.vocabulary, (SAMPLE, 1), generator=generator)
        gates = []
        for layer, (span, trunk) in enumerate(zip(spans, trunks, strict=True)):
            gates.append(open_gate(span, trunk.inputs(random)[0][:, 0], FACTORS[layer]))
            notes[f"widest_{layer}"] = gates[layer].widest
        tokens = TokenSets(model, trunks[0], gates[0], generator)
        if not model.causal:
            places = (opening, tokens.at, trunks[1], gates[1])
            sequences, more = read_encoder(seen, *places, generator, self.max_searches)
            return Reconstruction(sequences=sequences, diagnostics=notes | more)
        search = Search(trunk=trunks[1], gate=gates[1], tokens=tokens, attack=self, notes=notes)
        found = tuple(search.run(model.prefix, model.positions))
        return Reconstruction(sequences=found, diagnostics=notes)


def input_gradients(seen: Observation, layer: int) -> list[Tensor]:
    """Return the gradients of the weights that read the input of ``layer``: (D, K) each.

    A fused weight is taken apart, since q, k and v differ in size and so in rounding.
    """
    wanted = seen.model.projections(layer)
    parts: list[Tensor] = []
    for one in wanted:
        gradient = seen.update.tensors.get(one.name)
        if gradient is not None:
            gradient = gradient.to(seen.model.device)
            gradient = gradient if one.input_axis == 0 else gradient.T
            parts += gradient.chunk(one.fused, dim=1)
    if not parts:
        names = ", ".join(one.name for one in wanted)
        raise UnsupportedObservation(
            f"dager needs the update of at least one of {names}; the update has none of them"
        )
    return parts


class TokenSets:
    """Algorithm 1: which tokens can stand at a position, by the span of block 0's inputs."""

    def __init__(
        self, model: ModelAdapter, trunk: Trunk, gate: Gate, generator: torch.Generator
    ) -> None:
        self.positional = model.positional
        self._vocabulary = model.vocabulary
        self._trunk = trunk
        self._gate = gate
        self._sketch = sketch(gate.span, generator)
        self._everywhere: Tensor | None = None

    def at(self, position: int) -> Tensor:
        """Return the ids (K,) that pass at ``position``: one set for all where none matters."""
        if self.positional:
            return self._passing(position)
        if self._everywhere is None:
            self._everywhere = self._passing(0)
        return self._everywhere

    def _passing(self, position: int) -> Tensor:
        kept = []
        near = min(MARGIN * self._gate.widest, self._gate.outside)
        for ids in torch.split(torch.arange(self._vocabulary), CHUNK):
            inputs, _ = self._trunk.inputs(ids[:, None], first=position)  # (K, 1, D)
            vectors = inputs[:, 0]
            close = self._sketch.distance(vectors) < near
            ids, vectors = ids[close.cpu()], vectors[close]
            kept.append(ids[(self._gate.excess(vectors) < 1.0).cpu()])
        return torch.cat(kept)


@dataclass(kw_only=True)
class Search:
    """Algorithm 2: prefixes grown token by token while block 1's new input stays in its span."""

    trunk: Trunk
    gate: Gate
    tokens: TokenSets
    attack: Dager
    notes: dict[str, bool | int | float]

    def run(self, start: Tokens, positions: int) -> Iterator[Tokens]:
        """Yield each sequence that begins with ``start`` once nothing can follow it."""
        prefixes, past = [start], None
        if start:
            _, past = self.trunk.inputs(torch.tensor([start]))
        for position in range(len(start), positions):
            rows, tokens = self._extensions(prefixes, past, position)
            extended = set(rows.tolist())
            ended = [prefix for row, prefix in enumerate(prefixes) if row not in extended]
            yield from (prefix for prefix in ended if len(prefix) > len(start))
            if not extended:
                return
            if self.notes["pairs_checked"] > self.attack.max_pairs:
                self.notes["cut"] = True
                return
            prefixes = [
                (*prefixes[row], token)
                for row, token in zip(rows.tolist(), tokens.tolist(), strict=True)
            ]
            kept = select(past, rows) if past is not None else None
            _, past = self.trunk.inputs(tokens[:, None], first=position, past=kept)
            logger.info("position %d: %d prefixes", position + 1, len(prefixes))
        yield from prefixes

    def _extensions(
        self, prefixes: list[Tokens], past: DynamicCache | None, position: int
    ) -> tuple[Tensor, Tensor]:
        """Return the rows of ``prefixes`` and the tokens that extend them: (K,) each, by row."""
        pairs = self._pairs(prefixes, self.tokens.at(position))
        parts = [torch.empty(0)]
        for some in torch.split(pairs, PAIRS) if len(pairs) else ():
            kept = select(past, some[:, 0]) if past is not None else None
            inputs, _ = self.trunk.inputs(some[:, 1:], first=position, past=kept)  # (K, 1, D)
            parts.append(self.gate.excess(inputs[:, 0]).cpu())
        excess = torch.cat(parts)
        inside = (excess < 1.0).nonzero().flatten()
        self.notes["pairs_checked"] += len(pairs)
        if len(inside) > self.attack.max_prefixes:
            self.notes["cut"] = True
            closest = excess[inside].topk(self.attack.max_prefixes, largest=False).indices
            inside = inside[closest.sort().values]
        return pairs[inside, 0], pairs[inside, 1]

    def _pairs(self, prefixes: list[Tokens], candidates: Tensor) -> Tensor:
        """Return every (row of ``prefixes``, token) to check: (K, 2), int64.

        Rotary attention over copies of one token gives what one copy gives, so without learned
        positions "x x" looks like "x": a prefix of copies is not extended by another.
        """
        pairs = torch.cartesian_prod(torch.arange(len(prefixes)), candidates).view(-1, 2)
        if self.tokens.positional:
            return pairs
        copies = [prefix[0] if len(set(prefix)) == 1 else -1 for prefix in prefixes]
        return pairs[torch.tensor(copies)[pairs[:, 0]] != pairs[:, 1]]
