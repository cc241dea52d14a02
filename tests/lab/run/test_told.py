"""What a project's server tells its clients, in our words."""

import math
from typing import Any

import pytest

from fedsim.lab.run.told import open_questions, training_config
from fedsim.training import TrainingSettings


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"lr": 1e-3, "local-epochs": 3}, {"learning_rate": 1e-3, "local_epochs": 3}),
        ({"server.lr": 1.0, "client.lr": 5e-5}, {"learning_rate": 5e-5}),
        ({"strategy.eta": 0.1, "lr": 1e-3}, {"learning_rate": 1e-3}),
        ({"lr": 0.1, "learning-rate": 1e-3}, {}),  # which of them nobody knows
        ({"lr": 0.1, "learning-rate": 0.1}, {"learning_rate": 0.1}),
        ({"evaluate.batch-size": 512, "train.batch-size": 4}, {"mini_batch_size": 4}),
        ({"eval.epochs": 3}, {}),
        ({"train.max-steps": 10, "lr": "5e-5"}, {"max_steps": 10, "learning_rate": 5e-5}),
        ({"strategy.optimizer": "FedAdam"}, {}),
        ({"server_optimizer": "adam", "optimizer": "server_fedadam"}, {}),
        ({"optim": "adamw_torch"}, {"optimizer": "adamw"}),
        ({"optimizer": "sgd_momentum"}, {"optimizer": "momentum"}),
        ({"optimizer": "SGD", "momentum": 0.9}, {"optimizer": "momentum"}),
        ({"optimizer": "SGD", "momentum": 0.5}, {}),  # none of ours
        ({"optimizer": "momentum"}, {"optimizer": "momentum"}),
        ({"optimizer": "lion"}, {}),
        ({"proximal-mu": 0.5}, {"proximal_mu": 0.5}),
        ({"dropout": False}, {"dropout": False}),
        ({"dropout": 0.1}, {}),
        *(({"lr": bad}, {}) for bad in (0, -1.0, True, "nan", "inf", "cosine", math.nan)),
        *(({"epochs": bad}, {}) for bad in (0, 1.5, "nan", "inf", 10**9, -2)),
        *(({"wd": bad}, {}) for bad in ("nan", -1)),
    ],
)
def test_settings_are_those_of_the_client(sent: dict[str, Any], told: dict[str, Any]) -> None:
    config = training_config(sent, "delta", {})
    known = TrainingSettings().as_config().keys() - {"algorithm"}
    assert {k: v for k, v in config.items() if k in known} == told
    TrainingSettings.from_config(config)


@pytest.mark.parametrize(("kind", "algorithm"), [("delta", "fedavg"), ("gradient", "fedsgd")])
def test_the_kind_of_an_update_says_the_algorithm(kind: str, algorithm: str) -> None:
    assert training_config({"algorithm": "other"}, kind, {})["algorithm"] == algorithm


def test_what_is_given_comes_before_what_is_sent() -> None:
    assert training_config({"lr": 1.0}, "delta", {"learning_rate": 0.5})["learning_rate"] == 0.5


def test_what_was_not_said_is_asked_for() -> None:
    config = training_config({"lr": 1.0, "epochs": 1}, "delta", {})
    asked = ["training.optimizer", "training.mini_batch_size", "training.dropout"]
    assert open_questions(config, "delta") == asked
    assert open_questions({}, "gradient") == ["training.dropout"]
