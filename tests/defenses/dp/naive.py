"""Clipped sums by plain autograd, one example at a time, in float64: what DP-SGD's must be."""

import copy

import pytest
import torch
from torch import Tensor, nn

from defenses.dp.per_example import Clip, noisy_gradient
from fedsim.models import ModelAdapter
from fedsim.training import Examples


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(model: ModelAdapter) -> nn.Module:
    """Return the model at weights where nothing is zero, LoRA's B among them."""
    noise = seeded(3)
    weights = model.initial_parameters()
    module = model.load(
        {name: w + 0.02 * torch.randn(w.shape, generator=noise) for name, w in weights.items()}
    )
    copied: nn.Module = copy.deepcopy(module).double()
    return copied.train(False)


def naive(
    model: ModelAdapter, module: nn.Module, examples: Examples, clip: float
) -> tuple[dict[str, Tensor], list[float]]:
    """Return the clipped sum and the norms, from the model's own loss of one example each."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in trained.items()}
    norms, draw = [], seeded(7)
    whole = model.batch(examples.sequences, examples.labels, draw)
    for row, tokens in enumerate(examples.sequences):
        example = {k: v[row : row + 1] for k, v in whole.items()}
        example = {k: v if v.dim() == 1 else v[:, : len(tokens)] for k, v in example.items()}
        loss = alone(module, example)
        grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        gradients = [torch.zeros(1) if g is None else g for g in grads]
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
        for name, g in zip(trained, gradients, strict=True):
            total[name] += min(1.0, clip / (norms[-1] + 1e-6)) * g  # Opacus' 1e-6
    return total, norms


def alone(module: nn.Module, example: dict[str, Tensor]) -> Tensor:
    """Return an example's loss, without padding, and without positions of our making.

    By hand, because transformers takes losses of tokens in float32.
    """
    logits, labels = module(**example).logits, example["labels"]
    if labels.dim() == 1:
        return nn.functional.cross_entropy(logits, labels)
    if (example["input_ids"] == labels).all():  # next tokens; masked ones are left out elsewhere
        logits, labels = logits[:, :-1], labels[:, 1:]
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def agrees(model: ModelAdapter, module: nn.Module, examples: Examples) -> None:
    """Compare with ``naive`` where some examples are clipped and some are not."""
    _, norms = naive(model, module, examples, 1.0)
    clip = sorted(norms)[len(norms) // 2]
    expected, _ = naive(model, module, examples, clip)
    how = Clip(norm=clip, noise_multiplier=0.0, expected=4.0)
    got = noisy_gradient(module, model, examples, how, seeded(7), seeded())
    close = 1e-9 if model.positional else 1e-6  # an RMSNorm computes in float32
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    assert list(got.clean) == list(expected)
    for name, tensor in expected.items():
        assert (4.0 * got.clean[name] - tensor).abs().max() <= close * largest, name
        assert torch.equal(got.sent[name], got.clean[name])
    assert got.norms.tolist() == pytest.approx(norms, rel=close)
