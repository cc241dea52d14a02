"""Captures of a stranger that ask for more than there is: each ends in a line, within limits."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedsim import limits
from fedsim.errors import BadInput
from fedsim.lab.display import Silent
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.run.replay import prepare_replay, run_replay
from fedsim.lab.store.run import RunDirectory
from tests.lab.conftest import experiment

pytestmark = pytest.mark.slow  # whole runs

FEDAVG = {"algorithm": "fedavg", "local_epochs": limits.EPOCHS, "mini_batch_size": 1}
Spoil = Callable[..., Path]


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fedsim.flower import set_identity

    set_identity()
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "run")
    config = experiment(
        federation={"rounds": 1, "clients": 1, "clients_per_round": 1}, data={"evaluate": 0}
    )
    run.create(config)
    run_experiment(prepare(config), run, Silent())
    return run.captures


@pytest.fixture
def spoiled(captures: Path, tmp_path: Path) -> Spoil:
    """Return a copy of the captures, with other values in its record."""

    def make(**changes: Any) -> Path:
        shutil.copytree(captures, tmp_path / "captures")
        path = tmp_path / "captures" / "round=1" / "client=0" / "observation.json"
        told = json.loads(path.read_text())
        for key, value in changes.items():
            told[key] = {**told[key], **value} if isinstance(value, dict) else value
        path.write_text(json.dumps(told))
        return tmp_path / "captures"

    return make


def attacked(captures: Path, *words: str) -> list[dict[str, Any]]:
    replay = prepare_replay(captures, "dager", words, captures.parent / "out")
    summary, _ = run_replay(replay, Silent())
    assert summary.verdicts["dager"].verdict == "inconclusive"
    lines = (captures.parent / "out" / "reconstructions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_more_epochs_than_anybody_waits_for(spoiled: Spoil) -> None:
    root, started = spoiled(kind="delta", config=FEDAVG), time.monotonic()
    rows = attacked(root, "seconds=2.0")
    assert time.monotonic() - started < 60.0
    (error,) = [row["error"] for row in rows if row["role"] == "positive"]
    assert error == (
        "its control could not be made: its training took longer than attack.seconds = 2 allows"
    )


@pytest.mark.parametrize(
    ("key", "value"), [("optimizer", "sdg"), ("learning_rate", "fast"), ("dropout", 0.5)]
)
def test_a_training_config_that_is_none(spoiled: Spoil, key: str, value: Any) -> None:
    rows = attacked(spoiled(kind="delta", config={**FEDAVG, key: value}), "seconds=20.0")
    (error,) = [row["error"] for row in rows if row["role"] == "positive"]
    assert error.startswith(f"its control could not be made: training.{key} must be ")


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ({"num_labels": 10**9}, r"model\.num_labels: the head in .* is of 2 labels, got 10"),
        ({"num_labels": 0}, r"model\.num_labels: the head in .* is of 2 labels, got 0"),
        ({"num_labels": 10**9, "freeze": ["head"]}, r"num_labels: the head in .* is of 2"),
        ({"num_labels": 10**9, "task": "causal-lm"}, r"model\.num_labels: "),
        ({"lora_rank": 10**9}, r"model\.lora_rank: wanted .* 4096, got 1000000000"),
    ],
)
def test_a_model_that_no_memory_holds_is_not_built(
    spoiled: Spoil, model: dict[str, Any], line: str
) -> None:
    root, started = spoiled(model=model), time.monotonic()
    with pytest.raises(BadInput, match=line):
        prepare_replay(root, "dager", [], None)
    assert time.monotonic() - started < 20.0


def test_weights_that_are_all_zero_are_attacked_within_the_limits(spoiled: Spoil) -> None:
    root = spoiled()
    path = root / "round=1" / "client=0" / "broadcast.safetensors"
    zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}
    path.unlink()
    save_file(zeros, path)
    started = time.monotonic()
    attacked(root, "seconds=2.0", "memory=1.5")
    assert time.monotonic() - started < 60.0
