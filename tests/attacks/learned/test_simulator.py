"""Simulated clients, against the client's own training one at a time."""

import copy
from typing import Any

import pytest
import torch

from attacks.learned.simulator import PrivateGradient
from fedsim.effects import Clips, Noises
from fedsim.local import LocalTraining
from fedsim.models import ModelSpec, load_adapter
from fedsim.training import Examples, TrainingSettings, mean_gradient
from tests.attacks.learned.scene import simulator, trained
from tests.conftest import Adapt

FAST = [
    ("gpt2-tiny", {"task": "causal-lm"}),
    ("gpt2-tiny", {"task": "causal-lm", "freeze": ("embeddings",)}),
    ("bert-tiny", {}),
    ("llama-tiny", {"task": "causal-lm", "lora_rank": 3}),
    ("breaching3-tiny", {"task": "causal-lm"}),
]
TEXTS = ((9, 700, 41, 800, 77), (9, 1203, 5, 42))


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "fields"), FAST)
@pytest.mark.parametrize("count", [1, 2])
def test_clients_of_one_backward_pass_send_what_each_sends_alone(
    adapt: Adapt, preset: str, fields: dict[str, object], count: int
) -> None:
    model = adapt(preset, **fields)
    seen, _ = trained(model, TEXTS[:count])
    many = simulator(seen)
    assert many.together
    other = ((8, 300, 301, 302, 303), (1500, 1501, 1502, 1503))[:count]
    held = torch.tensor([[[*text, *[-1] * (5 - len(text))] for text in one]
                         for one in (TEXTS[:count], other)])  # fmt: skip
    sent = list(many.updates(held, torch.Generator()))
    for texts, tensors in zip((TEXTS[:count], other), sent, strict=True):
        _, alone = trained(model, texts)
        assert set(tensors) == set(alone)
        for name, tensor in alone.items():
            near = 1e-5 * float(tensor.abs().max()) + 1e-7
            assert torch.allclose(tensors[name], tensor, atol=near), name


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "fedavg", "optimizer": "adamw", "local_epochs": 2, "learning_rate": 1e-3},
        {"algorithm": "fedavg", "max_steps": 3, "mini_batch_size": 1, "wire_dtype": "float16"},
    ],
)
def test_fedavg_is_the_clients_own_training(adapt: Adapt, settings: dict[str, object]) -> None:
    model = adapt("gpt2-tiny", task="causal-lm")
    seen, update = trained(model, TEXTS[:1], **settings)
    one = simulator(seen)
    assert not one.together
    (sent,) = one.updates(torch.tensor([[list(TEXTS[0])]]), torch.Generator())
    wire = getattr(torch, str(settings.get("wire_dtype", "float32")))
    for name, tensor in update.items():
        assert torch.equal(sent[name], tensor.to(wire).float()), name


def test_dropout_draws_from_the_generator_and_leaves_torchs_own_stream(adapt: Adapt) -> None:
    model = adapt("bert-tiny")
    seen, _ = trained(model, TEXTS[:1], dropout=True)
    one, held = simulator(seen), torch.tensor([[list(TEXTS[0])]])
    before = torch.get_rng_state()
    first, again, other = (
        next(one.updates(held, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_examples_are_clipped_one_by_one_and_the_sum_is_noised(adapt: Adapt) -> None:
    # by hand: clip(g1) + clip(g2) over 2; and z C / 2 is what the noise's size is
    model = adapt("bert-tiny")
    seen, _ = trained(model, TEXTS)
    held = torch.tensor([[list(TEXTS[0]), [*TEXTS[1], -1]]])
    quiet = Clips(norm=0.1, each=True), Noises(multiplier=0.0)
    (sent,) = simulator(seen, *quiet).updates(held, torch.Generator())
    expected: dict[str, torch.Tensor] = {}
    for text in TEXTS:
        _, own = trained(model, [text])
        norm = torch.cat([tensor.flatten() for tensor in own.values()]).norm()
        for name, tensor in own.items():
            part = tensor * min(1.0, 0.1 / float(norm)) / 2
            expected[name] = expected.get(name, torch.zeros_like(part)) + part
    for name, tensor in expected.items():
        assert torch.allclose(sent[name], tensor, atol=1e-6), name
    loud = Clips(norm=0.1, each=True), Noises(multiplier=3.0)
    (noisy,) = simulator(seen, *loud).updates(held, torch.Generator())
    noise = torch.cat([(noisy[name] - tensor).flatten() for name, tensor in sent.items()])
    assert noise.std() == pytest.approx(3.0 * 0.1 / 2, rel=0.02)


def test_private_steps_of_fedavg_are_noised_each(adapt: Adapt) -> None:
    model = load_adapter(ModelSpec(name="builtin:breaching3-tiny", task="causal-lm"))
    seen, _ = trained(model, TEXTS[:1], algorithm="fedavg", local_epochs=4, learning_rate=1.0)
    loud = Clips(norm=1e-9, each=True), Noises(multiplier=1e6)  # nothing but noise, of 1e-3
    one = simulator(seen, *loud)
    (sent,) = one.updates(torch.tensor([[list(TEXTS[0])]]), torch.Generator())
    noise = torch.cat([tensor.flatten() for tensor in sent.values()])
    assert noise.std() == pytest.approx(1e-3 * 4**0.5, rel=0.03)  # four steps of learning rate 1


def test_the_private_gradient_says_the_batchs_mean_loss(adapt: Adapt) -> None:
    model = adapt("bert-tiny")
    seen, _ = trained(model, TEXTS)
    effects = Clips(norm=0.1, each=True), Noises(multiplier=0.0)
    examples = Examples(sequences=TEXTS, labels=(0, 1))
    losses = []
    for gradient in (PrivateGradient(simulator(seen, *effects).pipeline), mean_gradient):
        training = LocalTraining(model, TrainingSettings(), gradient=gradient)
        losses.append(training(seen.broadcast.parameters, examples, torch.Generator())[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_no_rule_is_known_of_is_trained_alone(adapt: Adapt) -> None:
    model = adapt("bert-tiny")
    seen, update = trained(model, TEXTS[:1])
    odd: Any = copy.copy(model)
    odd._module = copy.deepcopy(model.module)
    odd._module.bert.embeddings.LayerNorm.__class__ = type(
        "Odd", (type(odd._module.bert.embeddings.LayerNorm),), {"forward": _odd_forward}
    )
    one = simulator(type(seen)(**{**vars(seen), "model": odd}))
    assert not one.together and one.probes(torch.ones(1, 1, 5, dtype=torch.int64), _g()) is None
    (sent,) = one.updates(torch.tensor([[list(TEXTS[0])]]), _g())
    assert set(sent) == set(update)


def _odd_forward(self: torch.nn.LayerNorm, states: torch.Tensor) -> torch.Tensor:
    return states * self.weight + self.bias  # no norm at all


def _g() -> torch.Generator:
    return torch.Generator()
