"""Norm layers: LayerNorm and every RMSNorm, whatever a family calls its own.

``transformers`` has a class of RMSNorm for each family, and calls its eps ``variance_epsilon`` or
``eps``; some add 1 to the weight (Gemma). So a class is known by what it computes, not by its name:
one of its modules is run once, on rows of our own, and compared with the formula.

Source: Ba et al., "Layer Normalization", arXiv:1607.06450; Zhang & Sennrich, "Root Mean Square
        Layer Normalization", NeurIPS 2019, arXiv:1910.07467.
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsim.errors import UnsupportedObservation


@dataclass(frozen=True)
class Kind:
    """What a class of norms computes: y = (w + shift) normed(x) + b."""

    centred: bool  # normed(x) is (x - mean) / std, else x / rms
    shift: float  # 0, or Gemma's 1


KINDS: WeakKeyDictionary[nn.Module, Kind | None] = WeakKeyDictionary()
"""Of each module that was met: two of one class may differ. None: it is no norm of ours."""


def kind_of(module: nn.Module) -> Kind | None:
    """Return what kind of norm ``module`` is, or None where it is none that we know."""
    if not _fits(module):
        return None
    if module not in KINDS:
        KINDS[module] = _tried(module)
    return KINDS[module]


def normed(module: nn.Module, vectors: Tensor) -> Tensor:
    """Return what the norm ``module`` multiplies by its weight, for ``vectors`` (..., D)."""
    kind = kind_of(module)
    assert kind is not None
    if kind.centred:
        return functional.layer_norm(vectors, vectors.shape[-1:], eps=_eps(module))
    return vectors * (vectors.square().mean(dim=-1, keepdim=True) + _eps(module)).rsqrt()


@dataclass(frozen=True, kw_only=True)
class Norm:
    """LayerNorm (``centred``) or RMSNorm over the last axis, as plain tensor algebra."""

    weight: Tensor  # (D,)
    bias: Tensor  # (D,); zeros for a norm without
    eps: float
    centred: bool

    @classmethod
    def of(cls, module: nn.Module) -> "Norm":
        """Return the norm that ``module`` computes.

        Raises:
            UnsupportedObservation: it is neither a LayerNorm nor an RMSNorm.
        """
        kind = kind_of(module)
        if kind is None:
            raise UnsupportedObservation(
                "a norm must be w (x - mean) / std + b or w x / rms(x) with one weight for each "
                f"entry of x, but {type(module).__name__} is not"
            )
        weight: Tensor = module.weight.detach()  # type: ignore[operator]
        weight = weight + kind.shift if kind.shift else weight
        bias: Any = getattr(module, "bias", None)
        bias = torch.zeros_like(weight) if bias is None else bias.detach()
        return cls(weight=weight, bias=bias, eps=_eps(module), centred=kind.centred)

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


def _eps(module: nn.Module) -> float:
    """Return what a norm adds to the mean square: by either name; None is torch's own RMSNorm's."""
    part: Any = module
    eps = part.variance_epsilon if hasattr(part, "variance_epsilon") else part.eps
    return float(torch.finfo(part.weight.dtype).eps if eps is None else eps)


def _fits(module: nn.Module) -> bool:
    """Return whether ``module`` holds what a norm holds: a vector, maybe another, and an eps."""
    shapes = {name: p.shape for name, p in module.named_parameters()}
    fits = {"weight"} <= set(shapes) <= {"weight", "bias"} and len(shapes["weight"]) == 1
    named = hasattr(module, "variance_epsilon") or hasattr(module, "eps")
    parts = [*module.buffers(), *module.children()]  # dropout, running means: not a norm alone
    return fits and named and not parts


def _tried(module: nn.Module) -> Kind | None:
    """Return what kind of norm ``module`` is, by what it makes of rows of which eps matters."""
    names = [name for name, _ in module.named_parameters()]
    weight = torch.linspace(0.5, 1.5, len(module.weight))  # type: ignore[arg-type]  # (D,)
    slots = {name: weight + place for place, name in enumerate(names)}
    rows = torch.stack([weight.square(), 3e-3 * weight.flip(0).square()])[None]  # (1, 2, D)
    with torch.no_grad():
        try:
            made = torch.func.functional_call(module, slots, (rows,))
        except Exception:  # it wants its channels elsewhere, or more than rows, and says so its way
            return None
        for kind in (Kind(c, s) for c in (True, False) for s in (0.0, 1.0)):
            centred = rows - rows.mean(dim=-1, keepdim=True) if kind.centred else rows
            scale = (centred.square().mean(dim=-1, keepdim=True) + _eps(module)).rsqrt()
            wanted = centred * scale * (weight + kind.shift) + slots.get("bias", 0.0)
            if made.shape == wanted.shape and torch.allclose(made, wanted, rtol=1e-3, atol=1e-4):
                return kind
    return None
