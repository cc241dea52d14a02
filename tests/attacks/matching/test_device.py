"""The matching attacks with the model on another device than the messages: the CPU's guess."""

from typing import Any

import pytest
import torch

from attacks import Attack, Dlg, Grab, Lamp, Partial, Tag
from fedsim.messages import Reconstruction
from tests.attacks.conftest import Batch, Look
from tests.conftest import Adapt
from tests.standin import another_device

FEW: dict[str, Any] = {"steps": 2, "starts": 2, "learning_rate": 0.1}
LAMP: dict[str, Any] = {**FEW, "tries": 2, "every": 1}
GRAB: dict[str, Any] = {**FEW, "alternations": 1, "iterations": 1, "beams": 1}


def run(attack: Attack, batch: Batch) -> Reconstruction:
    return attack.reconstruct(batch.observation, torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "preset", "setting", "granted"),
    [
        (Dlg(steps=2), "bert-tiny", {}, ("lengths",)),
        (Tag(steps=2), "gpt2-tiny", {}, ("labels", "lengths")),
        (Lamp(**LAMP), "bert-tiny", {}, ()),
        (Lamp(**LAMP), "llama-tiny", {"task": "causal-lm"}, ("lengths",)),
        (Partial(layers=(1,), modules=("q",), **LAMP), "bert-tiny", {}, ("labels", "lengths")),
        (Grab(**GRAB), "bert-tiny", {}, ("labels", "lengths")),
        (Grab(**GRAB), "gpt2-tiny", {"dropout": True}, ("labels", "lengths")),
    ],
    ids=["dlg", "tag", "lamp", "lamp-llama", "partial", "grab", "grab-dropout"],
)
def test_the_guess_does_not_depend_on_the_device(
    adapt: Adapt,
    look: Look,
    attack: Attack,
    preset: str,
    setting: dict[str, Any],
    granted: tuple[str, ...],
) -> None:
    training = {name: value for name, value in setting.items() if name == "dropout"}
    spec = {name: value for name, value in setting.items() if name != "dropout"}
    batch = look(adapt(preset, **spec), (5, 4), granted=granted, **training)
    wanted = run(attack, batch)
    model = batch.observation.model
    with another_device() as device:
        model.to(device)
        try:
            guess = run(attack, batch)
        finally:
            model.to(torch.device("cpu"))
    assert guess.sequences == wanted.sequences
    assert guess.diagnostics["distance"] == pytest.approx(wanted.diagnostics["distance"], rel=1e-3)
