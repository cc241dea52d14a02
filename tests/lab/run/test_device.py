"""Runs, and training, controls and utility alone, on another device than the messages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from attacks import ATTACKS
from fedsim.lab.display import Silent
from fedsim.lab.run import prepare
from fedsim.lab.run.controls import own_sequences, own_update
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.utility import utility
from fedsim.lab.store.run import RunDirectory
from fedsim.local import LocalTraining
from fedsim.messages import Broadcast
from fedsim.models import ModelSpec, load_adapter
from fedsim.training import Examples, TrainingSettings
from fedsim.vault.reader import Truth
from tests.lab.conftest import experiment
from tests.lab.in_process import InThisProcess
from tests.standin import another_device

PROXIMAL = {"algorithm": "fedavg", "optimizer": "adamw", "proximal_mu": 0.1}
MOMENTUM = {"algorithm": "fedavg", "optimizer": "momentum", "mini_batch_size": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "task", "settings"),
    [
        ("gpt2-tiny", "causal-lm", {}),
        ("llama-tiny", "classification", {**PROXIMAL, "learning_rate": 1e-3}),
        ("bert-tiny", "masked-lm", {**MOMENTUM, "wire_dtype": "float16"}),
    ],
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
        tensors = {name: tensor.cpu() for name, tensor in local[0].items()}
        control = own_update(model, sent, Truth(own, (0, 1, 0)), seed=1)
        return tensors, control.tensors, utility(model, parameters, examples)

    wanted = results()
    with another_device() as device:
        model.to(device)
        computed = results()
    for some, others in zip(computed[:2], wanted[:2], strict=True):
        for name, tensor in others.items():
            assert some[name].device == tensor.device == torch.device("cpu")
            assert_close(some[name], tensor, rtol=1e-3, atol=1e-6)
    assert computed[2] == pytest.approx(wanted[2], rel=1e-4)


def guesses(root: Path) -> list[tuple[Any, ...]]:
    """Run a small experiment under ``root`` and return what its attack guessed."""
    attack = [{"name": "dager"}]
    config = experiment(federation={"rounds": 1, "clients_per_round": 1}, attack=attack)
    run = RunDirectory(root)
    run.create(config)
    run_experiment(prepare.prepare(config), run, Silent())
    rows = run.rows("reconstructions.jsonl")
    assert {row["role"] for row in rows} == {"attack", "positive"}
    return [(row["role"], sorted(row["sequences"]), row["error"]) for row in rows]


@pytest.mark.slow
def test_a_run_on_another_device_guesses_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched = "fedsim.lab.run.attacking.attack_worker"  # another process has no such device
    monkeypatch.setattr(patched, lambda: InThisProcess(ATTACKS))
    with another_device() as device, monkeypatch.context() as patch:
        patch.setattr(prepare, "device", lambda name: device)
        guessed = guesses(tmp_path / "there")
    wanted = guesses(tmp_path / "here")  # last, so that the cached adapter ends up on the CPU
    assert all(sequences and error is None for _, sequences, error in wanted)
    assert guessed == wanted
