from dataclasses import fields
from typing import Any

import pytest

from fedsim.errors import MalformedMessage
from fedsim.training import Examples, TrainingSettings

OTHER: dict[str, Any] = {  # every setting, none at its default
    "algorithm": "fedavg",
    "local_epochs": 3,
    "max_steps": 5,
    "mini_batch_size": 7,
    "learning_rate": 3e-4,
    "optimizer": "adamw",
    "weight_decay": 0.2,
    "max_grad_norm": 0.3,
    "lr_scheduler": "cosine",
    "warmup_steps": 2,
    "dropout": True,
    "wire_dtype": "float16",
    "proximal_mu": 0.5,
    "compute_dtype": "bfloat16",
}


def test_settings_come_back_from_a_config() -> None:
    settings = TrainingSettings(**OTHER)
    assert settings.as_config() == OTHER
    assert TrainingSettings.from_config(settings.as_config()) == settings
    assert all(OTHER[setting.name] != setting.default for setting in fields(TrainingSettings))


def test_keys_of_others_are_left_alone_and_missing_ones_are_the_defaults() -> None:
    config = {"server-round": 3, "learning_rate": 0.5, "lr": 9.0}
    assert TrainingSettings.from_config(config) == TrainingSettings(learning_rate=0.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", "fast"),
        ("local_epochs", "three"),
        ("algorithm", "fedsdg"),
        ("optimizer", 3),
        ("wire_dtype", "bfloat16"),
    ],
)
def test_a_setting_that_cannot_be_is_malformed(key: str, value: Any) -> None:
    with pytest.raises(MalformedMessage, match=key):
        TrainingSettings.from_config({key: value})


def test_examples_are_taken_by_row_in_the_order_asked_for() -> None:
    examples = Examples(sequences=((1,), (2, 2), (3,)), labels=(0, None, 1))
    assert len(examples) == 3
    assert examples.take([2, 0, 2]) == Examples(sequences=((3,), (1,), (3,)), labels=(1, 0, 1))
    assert len(examples.take([])) == 0
