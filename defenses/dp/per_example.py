"""Clipped sums of per-example gradients with noise, on every family.

Source: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, arXiv:1607.00133, alg. 1;
        norms and sums of every example in one backward pass: see ``defenses.dp.ghost``; noise by
        ``defenses.dp.noise``.

Why not Opacus' own hooks: they sample gradients of modules in training mode alone (none where
dropout is off), know neither GPT-2's Conv1D nor LLaMA's norm, and their ghost norms are wrong for
tied weights, where two maps' gradients add up before the norm. GPT-2 and BERT look positions up
once for the whole batch, so their rows would count as one example, and a mean over the batch's
tokens mixes examples: see ``ModelAdapter.losses``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from defenses.dp.ghost import Call, Sums, add_sums, owners, squared_norms
from defenses.dp.noise import normal
from fedsim.errors import DefenseFailed
from fedsim.models import ModelAdapter
from fedsim.models.factors import RunsTwice, watched
from fedsim.training import Examples

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
        noise: draws the noise's key; on the CPU.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    clipped: Sums = {}
    norms = losses = torch.zeros(0)
    if len(examples):
        batch = adapter.batch(examples.sequences, examples.labels, generator)
        losses, norms = _clipped_sum(module, adapter, batch, clip.norm, clipped)
    sums = {p: clipped[p] if p in clipped else torch.zeros_like(p) for p in trained.values()}
    noised = _with_noise(sums, clip, noise)
    return Noisy(
        clean={name: sums[p].div_(clip.expected) for name, p in trained.items()},
        sent={name: noised[p].div_(clip.expected) for name, p in trained.items()},
        norms=norms,
        loss=float(losses.mean().item()) if len(examples) else 0.0,
    )


def _with_noise(sums: Sums, clip: Clip, noise: torch.Generator) -> Sums:
    """Return copies of ``sums`` with noise of z C on every entry."""
    std = clip.noise_multiplier * clip.norm
    return {p: total + std * normal(total.shape, noise).to(total) for p, total in sums.items()}


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """Return what each example's gradient is multiplied by, (B,), as Opacus does."""
    return (clip / (norms + TINY)).clamp(max=1.0)


def _clipped_sum(
    module: nn.Module, adapter: ModelAdapter, batch: dict[str, Tensor], clip: float, sums: Sums
) -> tuple[Tensor, Tensor]:
    """Add the clipped gradients of ``batch`` to ``sums``; return losses and norms, (B,) each."""
    try:
        with watched(owners(module)) as caught:
            losses = adapter.losses(module, batch)
    except RunsTwice as error:
        raise DefenseFailed(f"dp-sgd: {error}") from error
    outputs = [output for _, output in caught.values()]
    slopes = torch.autograd.grad(losses.sum(), outputs, allow_unused=True)
    with torch.no_grad():
        calls = [
            _call(part, read, slope, len(losses))
            for (part, (read, _)), slope in zip(caught.items(), slopes, strict=True)
            if slope is not None
        ]
        norms = squared_norms(calls).sqrt()
        add_sums(calls, clip_factors(norms, clip), sums)
    return losses.detach(), norms


def _call(part: nn.Module, read: Tensor, slope: Tensor, examples: int) -> Call:
    """Return a call with one place an example where the module knows no places."""
    if len(slope) != examples or len(read) != examples:
        raise DefenseFailed(f"dp-sgd: {type(part).__name__} does not keep examples apart")
    if isinstance(part, nn.Embedding):
        return Call.of(part, read, slope)
    return Call.of(part, *(t.reshape(examples, -1, t.shape[-1]) for t in (read, slope)))
