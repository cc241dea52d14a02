"""What hides texts and no update shows is told by what was said of the training."""

from typing import Any

import pytest
import torch

from fedsim.captures import Captured
from fedsim.lab.run.looks import hiding, looks_of, without_decay
from fedsim.messages import Broadcast, Update
from fedsim.models import ModelSpec, load_adapter


def test_decay_is_taken_off_what_was_sent_and_of_nothing_else() -> None:
    """Half a percent of all weights, two rows of the embeddings that a text touched, and zeros."""
    generator = torch.Generator().manual_seed(1)
    sent = {"wte": torch.randn(90, 8, generator=generator), "map": torch.randn(8, 8)}
    step = {"wte": torch.zeros(90, 8), "map": torch.randn(8, 8, generator=generator)}
    step["wte"][:2] = torch.randn(2, 8, generator=generator)
    delta = {name: step[name] - 0.005 * sent[name] for name in sent}
    delta["map"][3] = 0.0  # a defense left it out
    rid = without_decay(delta, sent, "delta")
    assert not rid["map"][3].any()
    step["map"][3] = 0.0
    for name, wanted in step.items():
        torch.testing.assert_close(rid[name].float(), wanted, atol=1e-6, rtol=1e-5)
    assert without_decay(delta, sent, "gradient") is delta


def test_decayed_weights_are_normal_and_neither_noise_nor_adams_steps() -> None:
    generator = torch.Generator().manual_seed(1)
    sent = {"wte": torch.randn(600, 96, generator=generator)}
    step = {"wte": torch.zeros(600, 96)}
    for name in "abc":
        sent[name] = torch.randn(96, 96, generator=generator)
        left, right = (torch.randn(96, 6, generator=generator) ** 3 for _ in range(2))
        step[name] = 1e-7 * left @ right.T
    delta = {name: step[name].double() - 0.005 * sent[name].double() for name in sent}
    assert not looks_of(delta, sent, "delta").words("delta")
    assert looks_of(delta, kind="delta").words("delta")  # decay that nothing shows is loud enough


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "fall", "power"), [(3e-3, 0.7, 1), (3e-2, 0.7, 1), (1.0, 1.0, 3)])
def test_an_attack_on_weights_of_16_bits_says_what_is_lost(
    rate: float, fall: float, power: int
) -> None:
    """Steps of about a weight's last bit, or far above it; of 20 inputs, each weaker or not."""
    adapter = load_adapter(ModelSpec(name="builtin:gpt2-tiny"))
    generator = torch.Generator().manual_seed(1)
    name = adapter.projections(0, "hidden")[0].name
    sent = torch.randn(192, 576, generator=generator).bfloat16()
    seen = fall ** torch.arange(20)[:, None] * torch.randn(20, 576, generator=generator) ** power
    step = torch.randn(192, 20, generator=generator) @ seen
    after = (sent.float() + rate * step).bfloat16().float()
    captured = Captured(
        round=1,
        client=0,
        broadcast=Broadcast(round=1, parameters={name: sent.float()}),
        update=Update(tensors={name: after - sent.float()}, kind="delta", num_examples=2),
        model={},
    )
    words = hiding(captured, adapter)
    assert any("16 bits: inputs that change them" in word for word in words) == (rate < 1)
    assert not any("it is no sum of gradients" in word for word in words)
    assert any("as rounding to 16 bits leaves any" in word for word in words) == (rate < 1e-2)


@pytest.mark.parametrize(
    ("model", "config", "said"),
    [
        ({"name": "builtin:gpt2-tiny"}, {"dropout": True}, True),
        ({"name": "builtin:gpt2-tiny"}, {"dropout": False}, False),
        ({"name": "builtin:gpt2-tiny"}, {}, False),
        ({"name": "builtin:gpt2-tiny", "dropout": 0.0}, {"dropout": True}, False),
        ({"name": "builtin:llama-tiny"}, {"dropout": True}, False),  # it has no rate at all
        (
            {"name": "builtin:llama-tiny", "lora_rank": 4, "lora_dropout": 0.1},
            {"dropout": True},
            True,
        ),
    ],
)
def test_dropout_is_a_reason_where_it_was_on_and_drops_something(
    model: dict[str, Any], config: dict[str, Any], said: bool
) -> None:
    left, right = (torch.randn(96, 6, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    update = {"a.weight": left**3 @ right.T**3}  # a sum of few outer products, as gradients are
    captured = Captured(
        round=1,
        client=0,
        broadcast=Broadcast(round=1, parameters={"a.weight": torch.zeros(96, 96)}, config=config),
        update=Update(tensors=update, kind="delta", num_examples=2),
        model={},
    )
    words = hiding(captured, load_adapter(ModelSpec(**model)))
    assert len(words) == said and all("dropout was on" in word for word in words)
