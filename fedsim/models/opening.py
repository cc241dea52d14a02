"""Block 0 in the open: what its attention and its MLP read, as plain tensor algebra.

A trunk runs a model's own modules, whole. An attack that tests millions of candidates needs less:
the input of block 0 is affine in a token's and a position's embedding but for a norm's scale, and
attention adds one context at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from fedsim.models.norms import Norm
from fedsim.models.workspace import Lease, Leased

Heads = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class Entrance(Protocol):
    """What block 0's attention reads of single tokens."""

    @property
    def positions(self) -> int:
        """The positions that differ: 1 where none matters."""
        ...

    def inputs(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return what q, k and v of block 0 read of tokens (N,) at positions (N,): (N, D)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Embedded(Leased):
    """What enters the model, and what block 0 reads of it, at one set of weights.

    It shares the workspace: once other weights are loaded, reading a field raises RuntimeError.

    Attributes:
        words: (V, D) the token embeddings.
        places: (P, D) what a position adds; one row of zeros where it adds nothing.
        norm: from the embedding to what q, k and v read.
        lease: of the weights it shares.
    """

    words: Tensor
    places: Tensor
    norm: Norm
    lease: Lease | None = None

    @property
    def positions(self) -> int:
        """The positions that differ: 1 where none matters."""
        return len(self.places)

    def embedding(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return what enters the model for ``tokens`` (N,) at ``positions`` (N,): (N, D)."""
        rows = positions if len(self.places) > 1 else torch.zeros_like(positions)
        return self.words[tokens] + self.places[rows]

    def inputs(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return what q, k and v of block 0 read: (N, D)."""
        return self.norm(self.embedding(tokens, positions))


@dataclass(frozen=True, kw_only=True)
class Attending(Leased, ABC):
    """Attention of block 0, and what follows up to its MLP, at one set of weights.

    It shares the workspace: once other weights are loaded, reading a field raises RuntimeError.

    Attributes:
        heads: what q, k, v give for inputs (N, D) at positions (N,): queries (N, H, E), keys and
            values (N, G, E); H is a multiple of G, and keys are turned to their positions.
        scale: what a query's products with keys are multiplied by before the softmax.
        output: (H * E, D), output_bias (D,): from the heads' contexts to the residual stream.
        middle: the norm between attention and MLP.
        lease: of the weights it shares.
    """

    heads: Heads
    scale: float
    output: Tensor
    output_bias: Tensor
    middle: Norm
    lease: Lease | None = None

    @property
    @abstractmethod
    def positions(self) -> int:
        """The positions that differ: 1 where none matters."""

    @abstractmethod
    def inputs(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return what q, k and v of block 0 read: (N, D)."""

    @abstractmethod
    def residual(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return what attention's output is added to: (N, D)."""

    def middles(self, tokens: Tensor, *, causal: bool) -> Tensor:
        """Return what the MLP reads of sentences ``tokens`` (N, T): (N, T, D)."""
        count, length = tokens.shape
        flat, positions = tokens.flatten(), torch.arange(length).repeat(count)
        heads = self.heads(self.inputs(flat, positions), positions)
        q, k, v = (head.reshape(count, length, *head.shape[1:]) for head in heads)
        k, v = (head.repeat_interleave(q.shape[2] // head.shape[2], dim=2) for head in (k, v))
        scores = torch.einsum("nthe,nshe->nhts", q * self.scale, k)
        if causal:
            later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        contexts = torch.einsum("nhts,nshe->nthe", scores.softmax(dim=-1), v).flatten(2)
        output = (contexts @ self.output + self.output_bias).flatten(0, 1)
        read: Tensor = self.middle(output + self.residual(flat, positions))
        return read.view(count, length, -1)


@dataclass(frozen=True, kw_only=True)
class Opening(Embedded, Attending):
    """The embeddings and block 0 up to its MLP.

    Attributes:
        normed: the residual stream is the norm's output (BERT), not its input.
    """

    normed: bool

    @override
    def residual(self, tokens: Tensor, positions: Tensor) -> Tensor:
        embedded = self.embedding(tokens, positions)
        return self.norm(embedded) if self.normed else embedded


@dataclass(frozen=True, kw_only=True)
class RunOpening(Attending):
    """The same of a post-norm model whose embeddings are known by running it alone.

    Attributes:
        single: what block 0 reads of single tokens, which attention's output is added to.
    """

    single: Entrance

    @property
    @override
    def positions(self) -> int:
        return self.single.positions

    @override
    def inputs(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.single.inputs(tokens, positions)

    @override
    def residual(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.single.inputs(tokens, positions)


def affine(module: nn.Module, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix (width, D) and bias (D,) of an affine ``module``, adapters included."""
    ends = torch.cat([torch.zeros(1, width), torch.eye(width)]).to(like)
    with torch.no_grad():
        images: Tensor = module(ends)
    return images[1:] - images[0], images[0]
