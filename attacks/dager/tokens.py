"""Which tokens can stand at a position, by the span of block 0's inputs (DAGER, algorithm 1).

The input is norm(e + p) for a token's embedding e and a position's p, so its products with fixed
directions are sums of a token's part and a position's part, but for the norm's scale. All positions
then cost about what one costs: V x k products of width D, where the paper has V x P x D. The scale
needs e.p alone, and lies between bounds that |e| and |p| give: where the threshold is narrow the
least distance between the bounds will do. In float32 the sum resolves distances down to about 3e-4,
so it only sorts out; what is left is embedded and measured.
"""

import torch
from torch import Tensor

from attacks.dager import thresholds
from attacks.dager.span import Gate, sketch
from fedsim.models import Embedded, Entrance


class TokenSets:
    """The tokens that pass a gate at each position, found a block of positions at a time."""

    def __init__(self, opening: Embedded, gate: Gate, generator: torch.Generator) -> None:
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
        self._near = max(thresholds.TOKEN_MARGIN * gate.widest, thresholds.TOKEN_FLOOR)
        self._narrow = self._near < thresholds.NARROW * gate.outside
        norm, words = opening.norm, opening.words
        size = thresholds.NARROW_SKETCH if self._narrow else thresholds.SKETCH
        view = sketch(gate.span, generator, size)
        self._scale = view.scale / gate.length
        turned = norm.weight[:, None] * view.directions  # (D, k)
        self._turned = turned - turned.mean(dim=0) if norm.centred else turned
        self._offset = norm.bias @ view.directions  # (k,)
        self._words = words @ self._turned  # (V, k)
        self._squares = self._words.square().sum(dim=1)[:, None]  # (V, 1)
        self._crosses = (self._words @ self._offset)[:, None]  # (V, 1)
        self._lengths = torch.linalg.vector_norm(words, dim=1)[:, None]  # (V, 1)

    def at(self, position: int) -> Tensor:
        """Return the ids (K,), ascending, that pass at ``position``: any, where none matters.

        They are on the CPU.
        """
        block, place = divmod(min(position, self.positions - 1), thresholds.POSITIONS)
        if block not in self._found:
            self._found[block] = self._passing(block * thresholds.POSITIONS)
        return self._found[block][place]

    def _passing(self, first: int) -> tuple[Tensor, ...]:
        """Return the ids that pass at each of the positions from ``first`` on."""
        positions = torch.arange(first, min(first + thresholds.POSITIONS, self.positions))
        tokens, places = (self._distance(positions) < self._near).nonzero().cpu().unbind(1)
        inside = self._gate.inside(self._opening.inputs(tokens, positions[places])).cpu()
        return tuple(tokens[inside & (places == place)] for place in range(len(positions)))

    def _distance(self, positions: Tensor) -> Tensor:
        """Return an estimate of the distance of every token at every position: (V, P)."""
        places = self._opening.norm.centre(self._opening.places[positions])  # (P, D)
        there = places @ self._turned  # (P, k)
        squares = 2 * (self._words @ there.T)
        squares += self._squares + there.square().sum(dim=1)
        cross = self._crosses + there @ self._offset
        least, most = self._scales(places)  # the distance is a parabola in the scale
        scale = torch.clamp(-cross / squares.clamp_min(1e-30), least, most)
        total = squares * scale.square() + 2 * scale * cross + self._offset.square().sum()
        return total.clamp_min_(0).sqrt_() * self._scale

    def _scales(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest factor that the norm may scale by: (V, P) each.

        Args:
            places: (P, D) what the positions add, centred if the norm is.
        """
        norm, width = self._opening.norm, places.shape[1]
        lengths = torch.linalg.vector_norm(places, dim=1)  # (P,)
        if self._narrow:
            between = (self._lengths - lengths).square() * (not norm.centred)
            outer = (self._lengths + lengths).square()
            return (outer / width + norm.eps).rsqrt_(), (between / width + norm.eps).rsqrt_()
        squares = self._lengths.square()
        if norm.centred:
            squares = squares - self._opening.words.sum(dim=1, keepdim=True).square() / width
        inner = self._opening.words @ places.T
        scale = ((squares + lengths.square() + 2 * inner) / width + norm.eps).rsqrt_()
        return scale, scale


class RunTokens:
    """The same where running the model alone tells block 0's input: a position at a time."""

    def __init__(
        self, single: Entrance, vocabulary: int, gate: Gate, generator: torch.Generator
    ) -> None:
        """Prepare what all positions share.

        Args:
            single: what block 0 reads of single tokens.
            vocabulary: V.
            gate: to the span of that.
            generator: draws the directions of the sketch.
        """
        self.positions = single.positions
        self._single = single
        self._gate = gate
        self._ids = torch.arange(vocabulary)
        self._view = sketch(gate.span, generator, thresholds.SKETCH)
        self._near = max(thresholds.TOKEN_MARGIN * gate.widest, thresholds.TOKEN_FLOOR)
        self._found: dict[int, Tensor] = {}

    def at(self, position: int) -> Tensor:
        """Return the ids (K,), ascending, that pass at ``position``: any, where none matters."""
        place = min(position, self.positions - 1)
        if place not in self._found:
            parts = self._ids.split(thresholds.RUN_TOKENS)
            self._found[place] = torch.cat([self._passing(some, place) for some in parts])
        return self._found[place]

    def _passing(self, ids: Tensor, place: int) -> Tensor:
        vectors = self._single.inputs(ids, torch.full_like(ids, place))
        close = (self._view.distance(vectors) < self._near).nonzero().flatten()
        return ids[close[self._gate.inside(vectors[close])].cpu()]
