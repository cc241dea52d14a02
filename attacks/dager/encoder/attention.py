"""One query's view of a sentence, as equations in which tokens are in it.

Attention gives a query the context sum_j exp(s_j) v_j / sum_j exp(s_j) per head, over the tokens j
of its sentence. Scores s and values v of block 0 depend on (token, position) alone, so they are
known for every candidate, and a sentence is a vector of 0s and 1s: one weight for each candidate.
Two gradients say which contexts there were: that of attention's output map spans them, and that of
the MLP's first map spans the normed sums of query and context, for each an affine function of the
context but for the norm's scale. What a context leaves outside of both spans must be 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.dager import thresholds
from attacks.dager.span import Span
from fedsim.models import Attending


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Candidates, (token, position) pairs, and what attention makes of them.

    Who they are stays on the CPU, what attention makes of them is on the model's device.

    Attributes:
        tokens: (N,) int64.
        positions: (N,) int64, ascending.
        queries: (N, H, E), scaled as the softmax wants them.
        keys: (N, H, E).
        images: (N, H, K) what a value adds to the equations, for each head.
        offsets: (N, K) what a query adds to its equations itself.
        ends: (N,) bool: the token that ends a sentence.
    """

    tokens: Tensor
    positions: Tensor
    queries: Tensor
    keys: Tensor
    images: Tensor
    offsets: Tensor
    ends: Tensor

    def linearise(self, query: int, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``query``'s equations at ``weights`` (N,) and their slopes: (K,), (N, K).

        As a softmax does not depend on the scale of all weights, the slopes times ``weights`` are
        0: the equations at weights w' are the first plus w' times the second, to first order.
        """
        weights = weights.to(self.keys.device)
        scores = torch.einsum("he,nhe->nh", self.queries[query], self.keys)
        terms = (scores - scores.amax(dim=0)).exp()  # (N, H)
        shares = terms / (weights @ terms).clamp_min(torch.finfo(terms.dtype).tiny)
        contexts = torch.einsum("nh,nhk->hk", weights[:, None] * shares, self.images)
        slopes = torch.einsum("nh,nhk->nk", shares, self.images) - shares @ contexts
        return contexts.sum(dim=0) + self.offsets[query], slopes

    def occupancy(self) -> Tensor:
        """Return which candidates fill a position, if only as its sentence ended before: (P, N)."""
        places = torch.arange(int(self.positions.max()) + 1)[:, None]
        return ((self.positions == places) | (self.ends & (self.positions < places))).float()


def token_sets(at: Callable[[int], Tensor], positions: int) -> list[Tensor]:
    """Return the tokens of each position up to the last before enough have none."""
    sets: list[Tensor] = []
    empty = total = 0
    for position in range(positions):
        sets.append(at(position))
        empty = 0 if len(sets[-1]) else empty + 1
        total += len(sets[-1])
        if empty == thresholds.LOOK or total > thresholds.CANDIDATES:
            break
    return sets[: len(sets) - empty]


def make_candidates(
    opening: Attending,
    sets: Sequence[Tensor],
    end: int,
    contexts: Span | None,
    middles: Span | None,
    generator: torch.Generator,
) -> Candidates:
    """Return the pool of the tokens ``sets[p]`` (K,) at each position p.

    Args:
        opening: block 0.
        sets: token ids, by position.
        end: the token that ends a sentence.
        contexts: the span of what attention's output map reads, or None.
        middles: the span of what the MLP's first map reads, or None.
        generator: draws the mixtures of equations.
    """
    tokens = torch.cat(list(sets))
    positions = torch.cat([torch.full_like(ids, place) for place, ids in enumerate(sets)])
    vectors = opening.inputs(tokens, positions)  # (N, D)
    queries, keys, values = opening.heads(vectors, positions)
    heads = queries.shape[1]
    keys, values = (
        part.repeat_interleave(heads // part.shape[1], dim=1) for part in (keys, values)
    )
    views, offsets = _equations(opening, tokens, positions, contexts, middles)
    even = _evened(values.flatten(1) @ views, offsets, generator)
    views = (views @ even).view(heads, -1, even.shape[1])  # (H, E, K)
    return Candidates(
        tokens=tokens,
        positions=positions,
        queries=queries * opening.scale,
        keys=keys,
        images=torch.einsum("nhe,hek->nhk", values, views),
        offsets=offsets @ even,
        ends=tokens == end,
    )


def _equations(
    opening: Attending,
    tokens: Tensor,
    positions: Tensor,
    contexts: Span | None,
    middles: Span | None,
) -> tuple[Tensor, Tensor]:
    """Return what contexts (H * E, K) and queries (N, K) add to the equations."""
    views, offsets = [], []
    if contexts is not None:
        views.append(_outside(contexts))
        offsets.append(torch.zeros(len(tokens), contexts.complement.shape[1]))
    if middles is not None:
        norm = opening.middle
        outside = _outside(middles)
        bias = norm.bias @ outside  # the norm's scale multiplies all but it: leave its direction
        if bias.norm() > 0:
            bias = bias / bias.norm()
            outside = outside - torch.outer(outside @ bias, bias)
        outside = norm.centre((norm.weight[:, None] * outside).T).T  # (D, K)
        views.append(opening.output @ outside)
        offsets.append((opening.residual(tokens, positions) + opening.output_bias) @ outside)
    return torch.cat(views, dim=1), torch.cat([offset.to(views[0]) for offset in offsets], dim=1)


def _outside(span: Span) -> Tensor:
    """Return what inputs (.., D) in ``span`` are orthogonal to: (D, K)."""
    return span.complement if span.map is None else span.map @ span.complement


def _evened(images: Tensor, offsets: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mixtures (K, K') in which all directions of ``images`` (N, K) weigh alike."""
    both = torch.cat([images - images.mean(dim=0), offsets - offsets.mean(dim=0)])
    values, vectors = torch.linalg.eigh((both.T @ both / len(images)).double())
    scale = (values.clamp_min(0) + thresholds.EVENED * values.mean()).rsqrt()
    even: Tensor = (vectors * scale).float()
    if len(even) > thresholds.EQUATIONS:
        mix = torch.randn(len(even), thresholds.EQUATIONS, generator=generator)
        even = even @ torch.linalg.qr(mix).Q.to(even.device)
    return even
