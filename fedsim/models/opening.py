"""Block 0 in the open: what its attention and its MLP read, as plain tensor algebra.

A trunk runs a model's own modules, whole. An attack that tests millions of candidates needs less:
the input of block 0 is affine in a token's and a position's embedding but for a norm's scale, and
attention adds one context at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Heads = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Norm:
    """LayerNorm (``centred``) or RMSNorm over the last axis."""

    weight: Tensor  # (D,)
    bias: Tensor  # (D,); zeros for an RMSNorm
    eps: float
    centred: bool

    @classmethod
    def of(cls, module: nn.Module) -> "Norm":
        """Return the norm that ``module`` computes."""
        weight: Tensor = module.weight.detach()  # type: ignore[operator]
        if isinstance(module, nn.LayerNorm):
            bias = module.bias.detach()
            return cls(weight=weight, bias=bias, eps=module.eps, centred=True)
        eps = float(module.variance_epsilon)  # type: ignore[arg-type]
        return cls(weight=weight, bias=torch.zeros_like(weight), eps=eps, centred=False)

    def centre(self, vectors: Tensor) -> Tensor:
        """Return ``vectors`` (..., D) less their own means, for a LayerNorm."""
        return vectors - vectors.mean(dim=-1, keepdim=True) if self.centred else vectors

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return the norm of ``vectors`` (..., D)."""
        centred = self.centre(vectors)
        scale = (centred.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()
        return centred * scale * self.weight + self.bias

    def pull(self, states: Tensor, gradients: Tensor) -> Tensor:
        """Return dL/dx for dL/dy ``gradients`` (N, K, D) of y = norm(x) at x = ``states`` (N, D).

        Source: Ba et al., "Layer Normalization", arXiv:1607.06450; the Jacobian is symmetric but
        for the weight, scale (C - n n^T / D) with n the norm's output before its weight and bias.
        """
        centred = self.centre(states)
        scale = (centred.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()  # (N, 1)
        normed = (centred * scale)[:, None]  # (N, 1, D)
        weighed = self.centre(gradients * self.weight)
        along = (weighed * normed).mean(dim=-1, keepdim=True)
        return (weighed - along * normed) * scale[:, None]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The embeddings and block 0 up to its MLP, at one set of weights.

    Attributes:
        words: (V, D) the token embeddings.
        places: (P, D) what a position adds; one row of zeros where it adds nothing.
        norm: from the embedding to what q, k and v read.
        heads: what q, k, v give for inputs (N, D) at positions (N,): queries (N, H, E), keys and
            values (N, G, E); H is a multiple of G, and keys are turned to their positions.
        scale: what a query's products with keys are multiplied by before the softmax.
        output: (H * E, D), output_bias (D,): from the heads' contexts to the residual stream.
        middle: the norm between attention and MLP.
        normed: the residual stream is the norm's output (BERT), not its input.
    """

    words: Tensor
    places: Tensor
    norm: Norm
    heads: Heads
    scale: float
    output: Tensor
    output_bias: Tensor
    middle: Norm
    normed: bool

    def embedding(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return what enters the model for ``tokens`` (N,) at ``positions`` (N,): (N, D)."""
        rows = positions if len(self.places) > 1 else torch.zeros_like(positions)
        return self.words[tokens] + self.places[rows]

    def inputs(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return what q, k and v of block 0 read: (N, D)."""
        return self.norm(self.embedding(tokens, positions))

    def residual(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return what attention's output is added to: (N, D)."""
        embedded = self.embedding(tokens, positions)
        return self.norm(embedded) if self.normed else embedded


def affine(module: nn.Module, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix (width, D) and bias (D,) of an affine ``module``, adapters included."""
    ends = torch.cat([torch.zeros(1, width), torch.eye(width)]).to(like)
    with torch.no_grad():
        images: Tensor = module(ends)
    return images[1:] - images[0], images[0]
