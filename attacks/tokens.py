"""Which tokens can stand at a position, by the span of block 0's inputs (DAGER, algorithm 1).

The input is norm(e + p) for a token's embedding e and a position's p, so its products with fixed
directions are sums of a token's part and a position's part, but for the norm's scale, which needs
e.p alone. All positions then cost about what one costs: V x (k + P) products of width D, where the
paper has V x P x D. In float32 the sum resolves distances down to about 3e-4, so it only sorts out;
what is left is embedded and measured.
"""

import torch
from torch import Tensor

from attacks.span import Gate, sketch
from fedsim.models import Opening

BLOCK = 16  # positions done at a time: V x BLOCK numbers are held
MARGIN = 1.5  # the sum keeps what it estimates below this many thresholds
FLOOR = 3e-3  # the least threshold: ten times what float32 can tell from zero here


class TokenSets:
    """The tokens that pass a gate at each position, found a block of positions at a time."""

    def __init__(self, opening: Opening, gate: Gate, generator: torch.Generator) -> None:
        """Prepare what all positions share.

        Args:
            opening: the embeddings and their norm.
            gate: to the span of block 0's inputs.
            generator: draws the directions of the sketch.
        """
        self.positions = len(opening.places)
        self._opening = opening
        self._gate = gate
        self._found: dict[int, tuple[Tensor, ...]] = {}
        norm = opening.norm
        view = sketch(gate.span, generator)
        self._scale = view.scale / gate.length
        turned = norm.weight[:, None] * view.directions  # (D, k)
        self._turned = turned - turned.mean(dim=0) if norm.centred else turned
        self._offset = norm.bias @ view.directions  # (k,)
        self._words = opening.words @ self._turned  # (V, k)
        words, width = opening.words, opening.words.shape[1]
        self._spread = torch.linalg.vector_norm(words, dim=1).square() / width  # (V,)
        if norm.centred:
            self._spread -= (words @ torch.full((width,), 1 / width).to(words)).square()

    def at(self, position: int) -> Tensor:
        """Return the ids (K,), ascending, that pass at ``position``: any, where none matters."""
        block, place = divmod(min(position, self.positions - 1), BLOCK)
        if block not in self._found:
            self._found[block] = self._passing(block * BLOCK)
        return self._found[block][place]

    def _passing(self, first: int) -> tuple[Tensor, ...]:
        """Return the ids that pass at each of the positions from ``first`` on."""
        positions = torch.arange(first, min(first + BLOCK, self.positions))
        near = max(MARGIN * self._gate.widest, FLOOR)
        tokens, places = (self._distance(positions) < near).nonzero().cpu().unbind(1)
        inside = self._gate.inside(self._opening.inputs(tokens, positions[places]))
        return tuple(tokens[inside & (places == place)] for place in range(len(positions)))

    def _distance(self, positions: Tensor) -> Tensor:
        """Return an estimate of the distance of every token at every position: (V, P)."""
        norm, words = self._opening.norm, self._opening.words
        places = norm.centre(self._opening.places[positions])  # (P, D)
        there = places @ self._turned  # (P, k)
        variance = 2 / words.shape[1] * (words @ places.T)
        variance += self._spread[:, None] + places.square().mean(dim=1)
        scale = (variance + norm.eps).rsqrt_()  # (V, P)
        squares = 2 * (self._words @ there.T)
        squares += self._words.square().sum(dim=1)[:, None] + there.square().sum(dim=1)
        cross = (self._words @ self._offset)[:, None] + there @ self._offset
        total = squares * scale.square() + 2 * scale * cross + self._offset.square().sum()
        return total.clamp_min_(0).sqrt_() * self._scale
