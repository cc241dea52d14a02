"""Training, the positive control and utility on another device than the messages."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from clients.training import LocalTraining
from fedsim.lab.controls import own_sequences, own_update
from fedsim.lab.utility import utility
from fedsim.messages import Broadcast
from fedsim.models import ModelSpec, load_adapter
from fedsim.training import Examples, TrainingSettings
from tests.standin import another_device

MODELS = [
    ("gpt2-tiny", "causal-lm"),
    ("llama-tiny", "classification"),
    ("bert-tiny", "masked-lm"),
]


@pytest.mark.parametrize(("preset", "task"), MODELS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"algorithm": "fedavg", "optimizer": "adamw", "learning_rate": 1e-3, "proximal_mu": 0.1},
        {"algorithm": "fedavg", "optimizer": "momentum", "mini_batch_size": 2},
    ],
    ids=str,
)
def test_the_device_changes_neither_updates_nor_utility(
    preset: str, task: Any, settings: dict[str, Any]
) -> None:
    model = load_adapter(ModelSpec(name=f"builtin:{preset}", task=task))
    parameters = model.initial_parameters()
    own = own_sequences(model, [9, 7, 12])
    examples = Examples(sequences=own, labels=(0, 1, 0))
    training = TrainingSettings(**settings)
    sent = Broadcast(round=1, parameters=parameters, config=training.as_config())

    def results() -> Any:
        local = LocalTraining(model, training)(parameters, examples, torch.Generator())
        tensors = {name: one.cpu() for name, one in local[0].items()}
        control = own_update(model, sent, own, seed=1)
        return tensors, control.tensors, utility(model, parameters, examples)

    wanted = results()
    with another_device() as device:
        model.to(device)
        found = results()
    for some, others in zip(found[:2], wanted[:2], strict=True):
        for name, one in others.items():
            assert some[name].device == one.device == torch.device("cpu")
            assert_close(some[name], one, rtol=1e-3, atol=1e-6)
    assert found[2] == pytest.approx(wanted[2], rel=1e-4)
