"""Clipped sums against plain autograd, one example at a time, on every family, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from defenses.dp.per_example import Clip, noisy_gradient
from fedsim.errors import DefenseFailed
from fedsim.models import ModelAdapter
from fedsim.training import Examples
from tests.conftest import Adapt, Sentences
from tests.defenses.dp.naive import agrees, moved, seeded

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2-tiny", {}),
    ("gpt2-tiny", {"task": "causal-lm"}),  # a tied head
    ("gpt2-tiny", {"lora_rank": 4}),
    ("gpt2-tiny", {"freeze": ("embeddings",)}),
    ("llama-tiny", {}),
    ("llama-tiny", {"task": "causal-lm"}),
    ("llama-tiny", {"lora_rank": 4}),
    ("bert-tiny", {}),
    ("bert-tiny", {"task": "masked-lm"}),  # a tied head whose bias two modules own
    ("bert-tiny", {"lora_rank": 4}),
    ("bert-tiny", {"freeze": ("embeddings", "layers.0")}),
]


def some(model: ModelAdapter, sentences: Sentences, count: int) -> Examples:
    return Examples(
        sequences=tuple(sentences(model, count)), labels=tuple(i % 2 for i in range(count))
    )


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "spec"), MODELS)
def test_the_clipped_sum_is_that_of_one_example_after_the_other(
    preset: str, spec: dict[str, Any], adapt: Adapt, sentences: Sentences
) -> None:
    model = adapt(preset, **spec)
    agrees(model, moved(model), some(model, sentences, 5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "task"), [("gpt2-tiny", "causal-lm"), ("bert-tiny", "masked-lm")]
)
def test_a_tied_head_is_one_map_with_its_embedding(preset: str, task: str, adapt: Adapt) -> None:
    # Tokens that occur twice, that are others' targets, and that the embedding pads with.
    model = adapt(preset, task=task)
    inner = (9, 9, 8, 7, 9, model.pad, 8, 8)
    rows = tuple((*model.prefix, *inner[:size], *model.suffix) for size in (3, 8, 6))
    agrees(model, moved(model), Examples(sequences=rows, labels=(None,) * 3))


def leftovers(module: nn.Module) -> list[str]:
    """Return what someone left on the module or its parameters."""
    hooks = [name for name, m in module.named_modules() if m._forward_hooks or m._backward_hooks]
    names = [key for p in module.parameters() for key in vars(p)]
    names += [key for m in module.modules() for key in ("activations",) if hasattr(m, key)]
    return hooks + names + [n for n, p in module.named_parameters() if p.grad is not None]


def test_the_module_comes_back_as_it_was(adapt: Adapt, sentences: Sentences) -> None:
    model = adapt("gpt2-tiny")
    module = moved(model)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    how = Clip(norm=1.0, noise_multiplier=1.0, expected=2.0)
    noisy_gradient(module, model, some(model, sentences, 2), how, seeded(), seeded())
    assert leftovers(module) == []
    assert not any(m.training for m in module.modules())
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_dropout_stays_on_where_it_was_on(adapt: Adapt, sentences: Sentences) -> None:
    model = adapt("gpt2-tiny")
    module = moved(model).train()
    how = Clip(norm=1e9, noise_multiplier=0.0, expected=2.0)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        got = noisy_gradient(module, model, some(model, sentences, 2), how, seeded(), seeded())
        losses.append(got.loss)
    assert losses[0] == losses[1] != losses[2]
    assert all(m.training for m in module.modules())


def test_an_empty_batch_is_noise_alone(adapt: Adapt) -> None:
    model = adapt("gpt2-tiny")
    module = moved(model)
    how = Clip(norm=0.5, noise_multiplier=2.0, expected=4.0)
    nobody = Examples(sequences=(), labels=())
    got = noisy_gradient(module, model, nobody, how, seeded(), seeded(1))
    assert all(not tensor.any() for tensor in got.clean.values()) and len(got.norms) == 0
    whole = torch.cat([tensor.flatten() for tensor in got.sent.values()])
    assert whole.std().item() == pytest.approx(2.0 * 0.5 / 4.0, rel=0.01)  # z C / B, 2 M entries
    assert abs(whole.mean().item()) < 1e-3


def test_noise_is_drawn_from_its_generator_alone(adapt: Adapt, sentences: Sentences) -> None:
    model = adapt("gpt2-tiny")
    module, examples = moved(model), some(model, sentences, 2)
    how = Clip(norm=1.0, noise_multiplier=1.0, expected=2.0)
    first, again, other = (
        noisy_gradient(module, model, examples, how, seeded(), seeded(seed)).sent["score.weight"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_module_that_mixes_examples_is_refused(
    adapt: Adapt, sentences: Sentences, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapt("gpt2-tiny")
    module, examples = moved(model), some(model, sentences, 3)

    def once(module: nn.Module, batch: Any) -> Tensor:  # positions once for all, as GPT-2 does it
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = module(**given).logits
        return nn.functional.cross_entropy(logits, batch["labels"], reduction="none")

    monkeypatch.setattr(model, "losses", once)
    how = Clip(norm=1.0, noise_multiplier=0.0, expected=1.0)
    with pytest.raises(DefenseFailed, match="Embedding does not keep examples apart"):
        noisy_gradient(module, model, examples, how, seeded(), seeded())


def test_a_module_that_runs_twice_is_refused(
    adapt: Adapt, sentences: Sentences, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapt("gpt2-tiny")
    module, examples, losses = moved(model), some(model, sentences, 3), model.losses
    monkeypatch.setattr(model, "losses", lambda m, b: losses(m, b) + losses(m, b))
    how = Clip(norm=1.0, noise_multiplier=0.0, expected=1.0)
    with pytest.raises(DefenseFailed, match="runs twice in a step"):
        noisy_gradient(module, model, examples, how, seeded(), seeded())
    assert leftovers(module) == []
