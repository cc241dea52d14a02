"""Norms of examples' gradients, and their clipped sum, from what maps read and their slopes.

Source: Goodfellow, arXiv:1510.01799 (a map's gradient is sum_t x_t b_t^T, so its square is
        sum_tu <x_t, x_u> <b_t, b_u>); Li et al., ICLR 2022, arXiv:2110.05679, sec. 4 (embeddings:
        <x_t, x_u> says whether two tokens are the same); Bu et al., ICML 2023, arXiv:2210.00038
        (the same slopes serve the clipped sum).

A head tied to the embedding adds sum_t b_t h_t^T to sum_u e_id(u) s_u^T before the norm. The square
of that sum has a cross term besides: 2 sum_tu b_t[id(u)] <h_t, s_u>, of slopes that are there.

No example's gradient of a map is ever held. Norm layers' are: a vector an example.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertLMPredictionHead
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

Sums = dict[nn.Parameter, Tensor]


@dataclass(frozen=True)
class Call:
    """One run of a module over B examples of T places each; detached."""

    part: Any
    read: Tensor  # (B, T, D_in), or token ids (B, T)
    slope: Tensor  # (B, T, D_out), d(sum of losses) / d(output)


def squared_norms(calls: Iterable[Call]) -> Tensor:
    """Return the squared L2 norm (B,) of each example's gradient over all that ``calls`` train."""
    calls = list(calls)
    parts = [RULES[type(call.part)].squares(call) for call in calls]
    heads = {call.part.weight: call for call in calls if isinstance(call.part, nn.Linear)}
    parts += [
        _cross(call, heads[call.part.weight])
        for call in calls
        if isinstance(call.part, nn.Embedding) and call.part.weight in heads
    ]
    return torch.stack(parts).sum(0).clamp(min=0.0)  # rounding can leave -0.0001 of a 0


def add_sums(calls: Iterable[Call], factors: Tensor, sums: Sums) -> None:
    """Add sum_i f_i g_i to ``sums``, g_i of each parameter that ``calls`` train, f (B,)."""
    for call in calls:
        for p, one in RULES[type(call.part)].sums(call, factors):
            sums[p] = sums[p].add_(one) if p in sums else one


def owners(module: nn.Module) -> list[nn.Module]:
    """Return the modules that own parameters that train."""
    return [
        part
        for part in module.modules()
        if any(p.requires_grad for p in part.parameters(recurse=False))
    ]


def untellable(module: nn.Module) -> str | None:
    """Return why the norms of examples' gradients would be wrong, or None."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            return f"{name} is a batch norm, which mixes the examples"
    held: dict[nn.Parameter, list[nn.Module]] = {}
    for part in owners(module):
        if type(part) not in RULES:
            kinds = ", ".join(sorted(one.__name__ for one in RULES))
            return f"no rule for the gradients of {type(part).__name__}; known: {kinds}"
        for p in part.parameters(recurse=False):
            if p.requires_grad and type(part) is not BertLMPredictionHead:
                held.setdefault(p, []).append(part)
    for some in held.values():
        kinds = ", ".join(sorted(type(one).__name__ for one in some))
        if len(some) > 1 and kinds != "Embedding, Linear":
            return f"no rule for weights that {kinds} share"
    return None


def _gram(rows: Tensor) -> Tensor:
    """Return what each two places' rows (B, T, D) have in common: (B, T, T)."""
    return rows @ rows.transpose(1, 2)


def _same(ids: Tensor) -> Tensor:
    """Return where two of an example's places hold the same token: (B, T, T)."""
    return ids[:, :, None] == ids[:, None, :]


def _looked_up(call: Call) -> Tensor:
    """Return an embedding's slope; 0 where autograd gives a row no gradient."""
    if call.part.padding_idx is None:
        return call.slope
    return call.slope.masked_fill((call.read == call.part.padding_idx)[..., None], 0.0)


def _cross(lookup: Call, head: Call) -> Tensor:
    """Return 2 <g_lookup, g_head> (B,) of a weight that an embedding and a linear map share."""
    ids = lookup.read[:, None, :].expand(-1, head.slope.shape[1], -1)  # (B, T, U)
    meet = head.slope.gather(2, ids)  # b_t[id(u)]
    return 2.0 * (meet * (head.read @ _looked_up(lookup).transpose(1, 2))).sum((1, 2))


def _weighted(slope: Tensor, factors: Tensor) -> Tensor:
    """Return the slopes times their examples' factors, one row a place: (B T, D_out)."""
    return (slope * factors.view(-1, 1, 1)).flatten(0, 1)


class _Map:
    """y = x W^T + b."""

    turned = False  # W is (D_in, D_out)

    def squares(self, call: Call) -> Tensor:
        found, part = call.slope.new_zeros(len(call.slope)), call.part
        if part.weight.requires_grad:
            found = (_gram(call.read) * _gram(call.slope)).sum((1, 2))
        if part.bias is not None and part.bias.requires_grad:
            found = found + call.slope.sum(1).square().sum(1)
        return found

    def sums(self, call: Call, factors: Tensor) -> Iterable[tuple[nn.Parameter, Tensor]]:
        slope, part = _weighted(call.slope, factors), call.part
        if part.weight.requires_grad:
            read = call.read.flatten(0, 1)
            yield part.weight, read.T @ slope if self.turned else slope.T @ read
        if part.bias is not None and part.bias.requires_grad:
            yield part.bias, slope.sum(0)


class _TurnedMap(_Map):
    """GPT-2's y = x W + b."""

    turned = True


class _Lookup:
    """y = W[ids]."""

    def squares(self, call: Call) -> Tensor:
        return (_gram(_looked_up(call)) * _same(call.read)).sum((1, 2))

    def sums(self, call: Call, factors: Tensor) -> Iterable[tuple[nn.Parameter, Tensor]]:
        total = torch.zeros_like(call.part.weight)
        slope = _weighted(_looked_up(call), factors)
        yield call.part.weight, total.index_add_(0, call.read.flatten(), slope)


@dataclass(frozen=True)
class _Vectors:
    """A module whose parameters are vectors: each example's gradient is small enough to hold."""

    gradients: Callable[[Call], Mapping[nn.Parameter, Tensor]]  # (B, D) by parameter

    def squares(self, call: Call) -> Tensor:
        found = [one.square().sum(1) for one in self.gradients(call).values()]
        return torch.stack(found).sum(0) if found else call.slope.new_zeros(len(call.slope))

    def sums(self, call: Call, factors: Tensor) -> Iterable[tuple[nn.Parameter, Tensor]]:
        yield from ((p, factors @ one) for p, one in self.gradients(call).items())


def _layer_norm(call: Call) -> dict[nn.Parameter, Tensor]:
    """Return the gradients of y = w (x - mean) / std + b."""
    part = call.part
    scaled = nn.functional.layer_norm(call.read, part.normalized_shape, eps=part.eps)
    found = {part.weight: (scaled * call.slope).sum(1), part.bias: call.slope.sum(1)}
    return {p: one for p, one in found.items() if p.requires_grad}


def _rms_norm(call: Call) -> dict[nn.Parameter, Tensor]:
    """Return the gradients of y = w x / rms(x)."""
    x, part = call.read, call.part
    scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + part.variance_epsilon)
    return {part.weight: (scaled * call.slope).sum(1)}


RULES: dict[type, Any] = {
    nn.Embedding: _Lookup(),
    nn.LayerNorm: _Vectors(_layer_norm),
    nn.Linear: _Map(),
    Conv1D: _TurnedMap(),
    LlamaRMSNorm: _Vectors(_rms_norm),
    BertLMPredictionHead: _Vectors(lambda call: {}),  # its bias is added by the map inside it
}
"""Of each kind of module that owns parameters."""
