"""Clipped sums of per-example gradients with noise, by Opacus' rules, on every family.

Source: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, arXiv:1607.00133, alg. 1;
        Li et al., ICLR 2022, arXiv:2110.05679, sec. 4 (ghost clipping: norms from activations and
        output gradients); Bu et al., ICML 2023, arXiv:2210.00038 (both serve the sum once more).

What Opacus 1.6 leaves to its caller, and what is done about it:

- It samples gradients of modules in training mode alone, and would find none where dropout is off:
  the modules that own parameters are put into training mode, dropout stays as it is.
- It knows neither GPT-2's Conv1D nor LLaMA's norm: they have rules of their own below.
- Its ghost norms are wrong for tied weights, where two maps' gradients add up before the norm: such
  models get per-example gradients.
- GPT-2 and BERT look positions up once for the whole batch, so their rows would count as one
  example, and a mean over the batch's tokens mixes examples: see ``ModelAdapter.losses``.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
    GradSampleHooksFastGradientClipping,
)
from opacus.grad_sample.linear import compute_linear_norm_sample
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertLMPredictionHead
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from fedsim.errors import DefenseFailed
from fedsim.models import ModelAdapter
from fedsim.training import Examples

ENTRIES = 250_000_000  # of per-example gradients held at once: 1 GB in float32
TINY = 1e-6  # Opacus': a norm of 0 is divided by, too


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """One step's gradient: before the noise, after it, and what is true of its examples."""

    clean: dict[str, Tensor]  # the clipped sum, over the expected batch
    sent: dict[str, Tensor]  # the same with noise
    norms: Tensor  # (B,) of the examples' gradients, before clipping
    loss: float  # mean over the examples; 0 without any


@dataclass(frozen=True, kw_only=True)
class Clip:
    """How a step is clipped and noised."""

    norm: float  # C
    noise_multiplier: float  # z
    expected: float  # B, examples a step
    ghost: bool  # norms without per-example gradients; for untied models


def noisy_gradient(
    module: nn.Module,
    adapter: ModelAdapter,
    examples: Examples,
    clip: Clip,
    generator: torch.Generator,
    noise: torch.Generator,
) -> Noisy:
    """Return sum_i clip(g_i) / B and the same with N(0, (z C / B)^2) on every entry.

    An empty batch gives noise alone. The module's weights and modes are left as they were.

    Args:
        module: holds the weights.
        adapter: of the module.
        examples: of one step; any number of them, none too.
        clip: the mechanism's parameters.
        generator: draws a masked-lm's masks.
        noise: draws the noise; on the module's device.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    sums = {p: torch.zeros_like(p) for p in trained.values()}
    size = sum(p.numel() for p in sums)
    chunk = len(examples) if clip.ghost else max(1, ENTRIES // size)
    step = _ghost_sum if clip.ghost else _plain_sum
    norms, losses = [], []
    for start in range(0, len(examples), max(1, chunk)):
        some = examples.take(list(range(start, min(start + chunk, len(examples)))))
        batch = adapter.batch(some.sequences, some.labels, generator)
        each, found = step(module, adapter, batch, clip.norm, sums)
        norms.append(found)
        losses.append(each)
    noised = _with_noise(sums, clip, noise)
    return Noisy(
        clean={name: sums[p] / clip.expected for name, p in trained.items()},
        sent={name: noised[p] / clip.expected for name, p in trained.items()},
        norms=torch.cat(norms) if norms else torch.zeros(0),
        loss=float(torch.cat(losses).mean().item()) if losses else 0.0,
    )


Sums = dict[nn.Parameter, Tensor]


def _with_noise(sums: Sums, clip: Clip, noise: torch.Generator) -> Sums:
    """Return ``sums`` with the noise that Opacus' optimizer puts on them."""
    optimizer = DPOptimizer(
        torch.optim.SGD(list(sums), lr=0.0),
        noise_multiplier=clip.noise_multiplier,
        max_grad_norm=clip.norm,
        expected_batch_size=None,
        loss_reduction="sum",
        generator=noise,
    )
    found = {}
    for p, total in sums.items():
        p.summed_grad = total.clone()  # type: ignore[attr-defined]
    optimizer.add_noise()
    for p in sums:
        assert p.grad is not None
        found[p] = p.grad
        p.grad = None
        del p.summed_grad  # type: ignore[attr-defined]
    return found


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """Return what each example's gradient is multiplied by, (B,), as Opacus does."""
    return (clip / (norms + TINY)).clamp(max=1.0)


def _plain_sum(
    module: nn.Module, adapter: ModelAdapter, batch: dict[str, Tensor], clip: float, sums: Sums
) -> tuple[Tensor, Tensor]:
    """Add the clipped gradients of ``batch`` to ``sums``; return losses and norms, (B,) each."""
    with _hooked(module):
        losses = adapter.losses(module, batch)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        samples = {p: getattr(p, "grad_sample", None) for p in sums}
        for p in sums:
            p.grad = None
    reached = {p: one for p, one in samples.items() if one is not None}
    for one in reached.values():
        _check_rows(one, len(losses))
    squares = [one.flatten(1).square().sum(1) for one in reached.values()]
    norms = torch.stack(squares).sum(0).sqrt()
    factors = clip_factors(norms, clip)
    for p, one in reached.items():
        sums[p] += torch.einsum("n,n...->...", factors, one)
    return losses.detach(), norms


def _check_rows(sample: Any, rows: int) -> None:
    """Raise DefenseFailed where gradients are not one for each example: clipping would be void."""
    if not isinstance(sample, Tensor) or len(sample) != rows:
        raise DefenseFailed(f"dp-sgd: gradients are not one for each of {rows} examples")


def _ghost_sum(
    module: nn.Module, adapter: ModelAdapter, batch: dict[str, Tensor], clip: float, sums: Sums
) -> tuple[Tensor, Tensor]:
    """Do as ``_plain_sum`` without ever holding an example's gradient of a large map."""
    with _caught(module) as calls:
        losses = adapter.losses(module, batch)
    outputs = [output for _, _, output in calls]
    slopes = torch.autograd.grad(losses.sum(), outputs, allow_unused=True)
    squares = losses.new_zeros(len(losses))
    reached = []
    for (part, inputs, _), slope in zip(calls, slopes, strict=True):
        if slope is None:
            continue
        if len(slope) != len(losses):
            raise DefenseFailed(f"dp-sgd: {type(part).__name__} does not keep examples apart")
        rule = NORM_RULES.get(type(part))
        found = rule(part, [inputs], slope) if rule else RULES[type(part)](part, [inputs], slope)
        for one in found.values():
            squares += one.flatten(1).square().sum(1) if one.dim() > 1 else one.square()
        reached.append((part, inputs, slope, None if rule else found))
    norms = squares.sqrt().detach()
    factors = clip_factors(norms, clip)
    with torch.no_grad():
        for part, inputs, slope, small in reached:
            _add(part, inputs, slope, small, factors, sums)
    return losses.detach(), norms


def _add(part: Any, inputs: Tensor, slope: Tensor, small: Any, factors: Tensor, sums: Any) -> None:
    """Add one call's share of sum_i f_i g_i to ``sums``."""
    if small is not None:
        for p, one in small.items():
            sums[p] += torch.einsum("n,n...->...", factors, one)
        return
    scaled = slope * factors.view(-1, *[1] * (slope.dim() - 1))
    flat = scaled.reshape(-1, slope.shape[-1])  # (B T, D_out)
    if isinstance(part, nn.Embedding):
        sums[part.weight].index_add_(0, inputs.reshape(-1), flat)
        return
    read = inputs.reshape(-1, inputs.shape[-1])  # (B T, D_in)
    if part.weight.requires_grad:
        sums[part.weight] += read.T @ flat if isinstance(part, Conv1D) else flat.T @ read
    if part.bias is not None and part.bias.requires_grad:
        sums[part.bias] += flat.sum(0)


def owners(module: nn.Module) -> list[nn.Module]:
    """Return the modules that own parameters that train."""
    return [
        part
        for part in module.modules()
        if any(p.requires_grad for p in part.parameters(recurse=False))
    ]


def ghost_fits(module: nn.Module) -> bool:
    """Say whether every parameter that trains is of one module, and of a kind that has a rule."""
    parts = owners(module)
    held = [p for part in parts for p in part.parameters(recurse=False) if p.requires_grad]
    return len(held) == len(set(held)) and all(type(part) in RULES for part in parts)


@contextlib.contextmanager
def _caught(module: nn.Module) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """Collect what each module that owns parameters reads and gives, inside the block."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(part: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((part, given[0].detach(), output))

    handles = [part.register_forward_hook(note) for part in owners(module)]
    try:
        yield calls
    finally:
        for one in handles:
            one.remove()


@contextlib.contextmanager
def _hooked(module: nn.Module) -> Iterator[None]:
    """Have Opacus sample gradients inside the block; leave nothing of it behind."""
    parts = owners(module)
    modes = [part.training for part in parts]
    hooks = _Hooks(module, loss_reduction="sum")
    try:
        for part in parts:
            part.training = True
        with warnings.catch_warnings():  # of an embedding: ids have no gradient, and need none
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            yield
    finally:
        hooks.cleanup()
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
            for name in ("activations", "max_batch_len"):
                if hasattr(part, name):
                    delattr(part, name)


def _conv1d(layer: Any, activations: list[Tensor], backprops: Tensor) -> dict[Any, Tensor]:
    """Per-example gradients of y = x W + b, whose W (D_in, D_out) lies the other way round."""
    found = {}
    if layer.weight.requires_grad:
        found[layer.weight] = torch.einsum("n...i,n...j->nij", activations[0], backprops)
    if layer.bias.requires_grad:
        found[layer.bias] = torch.einsum("n...k->nk", backprops)
    return found


def _rms_norm(layer: Any, activations: list[Tensor], backprops: Tensor) -> dict[Any, Tensor]:
    """Per-example gradients of y = w x / rms(x)."""
    x = activations[0]
    scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + layer.variance_epsilon)
    return {layer.weight: torch.einsum("n...k->nk", scaled * backprops)}


def _nothing(layer: Any, activations: list[Tensor], backprops: Tensor) -> dict[Any, Tensor]:
    """BERT's prediction head owns a bias that the linear map inside it adds."""
    return {}


Rule = Callable[..., dict[Any, Tensor]]
RULES: dict[type, Rule] = {
    **{kind: GradSampleHooks.GRAD_SAMPLERS[kind] for kind in (nn.Embedding, nn.LayerNorm)},
    nn.Linear: GradSampleHooks.GRAD_SAMPLERS[nn.Linear],
    Conv1D: _conv1d,
    LlamaRMSNorm: _rms_norm,
    BertLMPredictionHead: _nothing,
}
"""Per-example gradients (B, ...) by parameter, for each kind of module that owns parameters."""
NORM_RULES: dict[type, Rule] = {
    **GradSampleHooksFastGradientClipping.NORM_SAMPLERS,
    # ||sum_t x_t b_t^T|| does not say which of the two axes is the input's.
    Conv1D: compute_linear_norm_sample,
}
"""Their norms (B,), without the gradients."""


class _Hooks(GradSampleHooks):  # type: ignore[misc]
    GRAD_SAMPLERS: ClassVar = RULES
