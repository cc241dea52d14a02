"""Which tokens can follow a prefix: two checks of (prefix, token) pairs, one for a search.

A decoder's hidden state at a position depends on the tokens up to there alone, so a wrong pair
leaves the span at once. The paper runs block 0 whole and looks at block 1's input. The input of
block 0's own MLP, norm(x + attention), tells as much and needs no MLP: seen through k directions
of its span's complement, attention is a weighted sum of k numbers a token and head. Only what
passes that is computed in full width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from attacks.dager import thresholds
from attacks.dager.span import Gate, sketch
from fedsim.models import Attending, Past, Trunk, select
from fedsim.types import Tokens


class PrefixCheck(ABC):
    """Holds a search's prefixes and says which tokens can follow them."""

    vague: bool  # one threshold for all, and a wide one: see Gate
    drifting: bool  # see Span

    @abstractmethod
    def begin(self, start: Tokens) -> None:
        """Hold one prefix, ``start``, which may be empty."""

    @abstractmethod
    def excess(self, pairs: Tensor, tokens: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Return which pairs may pass, and their distances over their thresholds.

        Args:
            pairs: (N, C) bool: the prefix-token pairs to look at.
            tokens: (C,) the ids that may stand at ``position``.
            position: the length of the prefixes.

        Returns:
            (K, 2) rows of (prefix, place in ``tokens``), in order, and (K,) floats, on the CPU;
            what is not there is far off.
        """

    @abstractmethod
    def advance(self, chosen: Tensor) -> None:
        """Hold the prefixes that the pairs ``chosen`` (K, 2) of the last call make."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What block 0's attention makes of N tokens; G groups of H / G heads share keys and values."""

    queries: Tensor  # (N, H, E)
    keys: Tensor  # (N, G, E)
    values: Tensor  # (N, G, E)
    views: Tensor  # (N, H, k): each head's value through the output map, as the sketch sees it
    residual: Tensor  # (N, D): what attention's output is added to


class MiddleCheck(PrefixCheck):
    """Looks at what block 0's MLP reads."""

    def __init__(self, opening: Attending, gate: Gate, generator: torch.Generator) -> None:
        self._opening = opening
        self._gate = gate
        self.vague = gate.vague
        self.drifting = gate.span.drifting
        norm, width = opening.middle, len(opening.output_bias)
        size = thresholds.VAGUE_SKETCH if gate.vague else thresholds.SKETCH
        view = sketch(gate.span, generator, size)
        self._kept = view.directions.shape[1]
        self._scale = view.scale / gate.length
        self._offset = norm.bias @ view.directions  # (k,)
        count = thresholds.RULERS
        rulers = torch.randn(width, count, generator=generator).to(view.directions)
        views = torch.cat([norm.weight[:, None] * view.directions, rulers / count**0.5], dim=1)
        self._views = views - views.mean(dim=0) if norm.centred else views  # (D, k + RULERS)
        self._map = opening.output @ self._views  # (H * E, k + RULERS)
        self._past: list[Tensor] = []

    def _heads(self, tokens: Tensor, position: int) -> Heads:
        positions = torch.full_like(tokens, position)
        q, k, v = self._opening.heads(self._opening.inputs(tokens, positions), positions)
        maps = self._map.view(q.shape[1], q.shape[2], -1)  # (H, E, k)
        spread = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)  # (N, H, E)
        return Heads(
            queries=q * self._opening.scale,
            keys=k,
            values=v,
            views=torch.einsum("nhe,hek->nhk", spread, maps),
            residual=self._opening.residual(tokens, positions) + self._opening.output_bias,
        )

    @override
    def begin(self, start: Tokens) -> None:
        self._now = self._heads(torch.tensor([0]), 0)  # any token: it is the shapes that count
        parts = (self._now.keys, self._now.values, self._now.views)
        self._past = [part[None, :0] for part in parts]  # (1, 0, ...)
        for position, token in enumerate(start):
            self._now = self._heads(torch.tensor([token]), position)
            self.advance(torch.tensor([[0, 0]]))

    @override
    def advance(self, chosen: Tensor) -> None:
        rows, places = chosen.unbind(1)
        new = (self._now.keys, self._now.values, self._now.views)
        self._past = [
            torch.cat([old[rows], added[places][:, None]], dim=1)
            for old, added in zip(self._past, new, strict=True)
        ]

    @override
    def excess(self, pairs: Tensor, tokens: Tensor, position: int) -> tuple[Tensor, Tensor]:
        if not len(tokens):
            return torch.empty(0, 2, dtype=torch.int64), torch.empty(0)
        self._now = self._heads(tokens, position)
        near = self._gate.widest
        near = near if self.vague else max(thresholds.PREFIX_MARGIN * near, thresholds.PREFIX_FLOOR)
        size = self._now.queries.shape[1] * (position + 1) * len(tokens)
        step = max(1, thresholds.WEIGHTS // size)
        close_pairs, distances = [], []
        for first in range(0, len(pairs), step):
            rows = slice(first, first + step)
            distance = self._distance(rows).cpu()
            close = (distance < near) & pairs[rows]
            close_pairs.append(close.nonzero() + torch.tensor([first, 0]))
            distances.append(distance[close])
        chosen = torch.cat(close_pairs)
        if self.vague:  # the sketch is the whole complement, and one in ten is near enough
            return chosen, torch.cat(distances) / near
        vectors = [self._vectors(some) for some in torch.split(chosen, thresholds.PAIRS)]
        return chosen, torch.cat([self._gate.excess(vector).cpu() for vector in vectors])

    def _distance(self, rows: slice) -> Tensor:
        """Return an estimate of every pair's distance, for the prefixes ``rows``: (N, C)."""
        keys, _, views = (part[rows] for part in self._past)
        now = self._now
        count, heads, width = now.queries.shape
        groups = now.keys.shape[1]
        shared = heads // groups
        queries = now.queries.reshape(count, groups, shared, width)
        own = (queries * now.keys[:, :, None]).sum(-1)  # (C, G, M)
        queries = queries.transpose(0, 1).flatten(1, 2)  # (G, C * M, E)
        scores = queries @ keys.permute(0, 2, 3, 1)  # (N, G, C * M, i)
        own = own.transpose(0, 1).flatten(1)[None, ..., None].expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, own], dim=-1).softmax(-1)
        weights = weights.view(len(keys), groups, count, shared, weights.shape[-1])
        weights = weights.transpose(1, 2).flatten(2, 3)  # (N, C, H, i + 1)
        past = weights[..., :-1].flatten(2) @ views.transpose(1, 2).flatten(1, 2)  # (N, C, k)
        itself = torch.einsum("nch,chk->nck", weights[..., -1], now.views)
        return self._angle(past + itself + now.residual @ self._views)

    def _vectors(self, chosen: Tensor) -> Tensor:
        """Return what the MLP reads for the pairs ``chosen`` (K, 2): (K, D)."""
        rows, places = chosen.unbind(1)
        now = self._now
        keys, values = (
            torch.cat([old[rows], added[places][:, None]], dim=1)  # (K, i + 1, G, E)
            for old, added in zip(self._past, (now.keys, now.values), strict=False)
        )
        groups, width = keys.shape[2:]
        shared = now.queries.shape[1] // groups
        queries = now.queries[places].reshape(len(rows), groups, shared, width)
        weights = (queries @ keys.permute(0, 2, 3, 1)).softmax(-1)  # (K, G, M, i + 1)
        contexts = (weights @ values.transpose(1, 2)).flatten(1)  # (K, H * E)
        output: Tensor = contexts @ self._opening.output
        return self._opening.middle(output + now.residual[places])

    def _angle(self, sketched: Tensor) -> Tensor:
        """Return the sketched distance of norm(h) for h as the sketch sees it (..., k): (...)."""
        inner, rulers = sketched[..., : self._kept], sketched[..., self._kept :]
        norm = self._opening.middle
        scale = (rulers.square().sum(-1) / len(norm.weight) + norm.eps).rsqrt()
        offset = self._offset
        if offset.any():  # then an error of the scale would show as a distance
            best = -(inner @ offset) / inner.square().sum(-1).clamp_min(1e-30)
            scale = best.clamp(scale / thresholds.SLACK, scale * thresholds.SLACK)
        sketched = inner * scale[..., None] + offset
        distances: Tensor = torch.linalg.vector_norm(sketched, dim=-1)
        return distances * self._scale


class BlockCheck(PrefixCheck):
    """Looks at what block 1 reads, as the paper does; block 0 is run on cached prefixes."""

    def __init__(self, trunk: Trunk, gate: Gate) -> None:
        self._trunk = trunk
        self._gate = gate
        self.vague = gate.span.blurred
        self.drifting = gate.span.drifting
        self._past: Past | None = None
        self._tokens = torch.empty(0, dtype=torch.int64)
        self._position = 0

    @override
    def begin(self, start: Tokens) -> None:
        self._past = self._trunk.inputs(torch.tensor([start]))[1] if start else None

    def _run(self, chosen: Tensor) -> tuple[Tensor, Past | None]:
        rows, places = chosen.unbind(1)
        past = select(self._past, rows) if self._past is not None else None
        tokens = self._tokens[places][:, None]
        return self._trunk.inputs(tokens, first=self._position, past=past)

    @override
    def excess(self, pairs: Tensor, tokens: Tensor, position: int) -> tuple[Tensor, Tensor]:
        self._tokens, self._position = tokens, position
        chosen = pairs.nonzero()
        excess = [torch.empty(0)]
        for some in torch.split(chosen, thresholds.PAIRS) if len(chosen) else ():
            excess.append(self._gate.excess(self._run(some)[0][:, 0]).cpu())
        return chosen, torch.cat(excess)

    @override
    def advance(self, chosen: Tensor) -> None:
        _, self._past = self._run(chosen)
