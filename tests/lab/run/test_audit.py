"""What clients measure reaches the summary, and a defense that fails ends the run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import clients.update
from defenses import DEFENSES, Defense, Guarantee
from defenses.base import Here, Memory, Setting
from defenses.dp.accounting import gaussian
from fedsim.errors import BadInput, RunFailed
from fedsim.lab.config import Config
from fedsim.lab.display import Silent
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.run.secrecy import claims, give_secret
from fedsim.lab.store.run import RunDirectory
from fedsim.models import ModelSpec
from fedsim.rng import Secret
from fedsim.training import TrainingSettings
from fedsim.types import Parameters
from tests.lab.conftest import experiment


@dataclass(frozen=True, kw_only=True)
class Halving(Defense):
    """Sends half; trains without the head; spends 1 a round."""

    fails: bool = False
    rounds: int = 0

    def configure(
        self, model: ModelSpec, training: TrainingSettings
    ) -> tuple[ModelSpec, TrainingSettings]:
        return replace(model, freeze=("head",)), replace(training, learning_rate=0.25)

    def check(self, setting: Setting) -> None:
        if setting.batch_size == 3:
            raise BadInput(
                f"halves: {tuple(setting.held)} {setting.clients_per_round} {setting.rounds}"
            )

    def begin(self, here: Here) -> Defense:
        return replace(self, rounds=here.memory.values.get("rounds", 0) + 1)

    def protect(self, tensors: Parameters, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: t * (0.0 if self.fails else 0.5) for name, t in tensors.items()}

    def keep(self) -> Memory:
        return Memory(values={"rounds": self.rounds})

    def spent(self, memories: Sequence[Memory]) -> Guarantee | None:
        worst = max(memory.values["rounds"] for memory in memories)
        return Guarantee(
            epsilon=worst, delta=0.1, unit="example", accountant="count", sampling="none"
        )


SECRET = Secret(bytes(range(16)))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFENSES, "halves", Halving)


def run(config: Config, root: Path) -> dict[str, Any]:
    directory = RunDirectory(root)
    directory.create(config)
    made = prepare(config)
    if claims(made.defenses):
        give_secret(directory.vault, made.defenses, SECRET)
    return run_experiment(made, directory, Silent())[0].as_dict()


@pytest.mark.slow
def test_the_summary_has_what_clients_measured_and_the_worst_clients_guarantee(
    tmp_path: Path,
) -> None:
    # Three rounds of 3 of 4 clients: 9 updates, and somebody was in all three or in two.
    summary = run(experiment(defense=["none", "halves"]), tmp_path / "run")
    wire = summary["wire"]
    assert wire["updates"] == 9 and wire["seconds"] > 0.0
    assert [row["defense"] for row in wire["defenses"]] == ["none", "halves"]
    assert wire["defenses"][0]["change"] == {"mean": 0.0, "min": 0.0, "max": 0.0}
    assert wire["defenses"][1]["change"]["mean"] == pytest.approx(0.5, abs=1e-6)
    names = {
        name
        for path in (tmp_path / "run" / "captures").rglob("update.safetensors")
        for name in __import__("safetensors").safe_open(path, "pt").keys()
    }
    assert names and not any("score" in name for name in names)  # the head was frozen
    took = [row["clients"] for row in RunDirectory(tmp_path / "run").rows("rounds.jsonl")[1:]]
    most = max(sum(client in clients for clients in took) for client in range(4))
    assert summary["guarantee"]["epsilon"] == most
    size = prepare(experiment(defense="halves")).adapter.trainable()
    assert wire["bytes_up"] == 4 * sum(
        prepare(experiment(defense="halves")).adapter.initial_parameters()[name].numel()
        for name in size
    )


def test_training_choices_reach_the_server(tmp_path: Path) -> None:
    assert prepare(experiment(defense="halves")).training.learning_rate == 0.25
    assert prepare(experiment()).training.learning_rate == 0.01


def test_a_defense_is_checked_before_anything_starts() -> None:
    with pytest.raises(BadInput, match=r"halves: \(\d+, \d+, \d+, \d+\) 3 3"):
        prepare(experiment(defense="halves", training={"batch_size": 3}))


def test_a_defense_that_fails_ends_the_run_even_where_clients_may_fail(tmp_path: Path) -> None:
    config = experiment(
        defense=[{"name": "halves", "fails": True}], federation={"on_failure": "continue"}
    )
    with pytest.raises(RunFailed, match=r"round 1, client \d: .*sends nothing"):
        run(config, tmp_path / "run")


# The DP defenses, whole runs


def captured(root: Path) -> dict[str, Tensor]:
    (path, *_) = sorted((root / "captures" / "round=1").rglob("update.safetensors"))
    return load_file(path)


@pytest.mark.slow
def test_central_dp_leaves_each_update_raw_before_the_server(tmp_path: Path) -> None:
    once = {"clients": 4, "clients_per_round": 3, "rounds": 1}
    plain = run(experiment(federation=once), tmp_path / "plain")
    central = [{"name": "central-dp", "noise_multiplier": 0.01}]
    noised = run(experiment(federation=once, defense=central), tmp_path / "central")
    again = run(experiment(federation=once, defense=central), tmp_path / "again")
    bare, defended = captured(tmp_path / "plain"), captured(tmp_path / "central")
    assert all(torch.equal(bare[name], defended[name]) for name in bare)
    assert noised["guarantee"] is None
    assert plain["checksum"] != noised["checksum"] == again["checksum"]  # by the seed


@pytest.mark.slow
def test_dp_sgd_stops_dager_and_the_bound_stands_beside(tmp_path: Path) -> None:
    config = experiment(
        defense={"name": "dp-sgd", "noise_multiplier": 0.5},
        attack="dager",
        federation={"clients": 2, "clients_per_round": 2, "rounds": 1},
        training={"batch_size": 4},
    )
    summary = run(config, tmp_path / "run")
    entries = summary["attacks"]
    assert summary["leakage"]["dager"]["exact_match"]["mean"] == 0.0
    assert summary["guarantee"]["unit"] == "example" and summary["guarantee"]["delta"] == 1e-5
    for entry in entries:
        assert entry["bound"]["nats"] == 2.0  # 1 / (2 z^2)
        assert entry["metrics"]["exact_match"] <= entry["bound"]["exact_match"] < 0.1
    assert sum(entry["samples"] for entry in entries) != 8  # Poisson, not a fixed batch


@pytest.mark.slow
def test_an_empty_batch_is_answered_and_scored_as_noise(tmp_path: Path) -> None:
    config = experiment(
        defense={"name": "dp-sgd", "noise_multiplier": 1.0},
        attack="dager",
        federation={"clients": 6, "clients_per_round": 6, "rounds": 1},
        training={"batch_size": 1},  # empty with probability (1 - 1/N)^N, about 0.37
    )
    summary = run(config, tmp_path / "run")
    empty = [entry for entry in summary["attacks"] if entry["samples"] == 0]
    assert empty and all("empty" in entry["reason"] for entry in empty)
    assert summary["wire"]["updates"] == 6
    assert summary["verdicts"]["dager"]["verdict"] == "no-leak"


@pytest.mark.slow
def test_an_accountant_survives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment(defense={"name": "dp-sgd", "noise_multiplier": 1.0})
    whole = run(config, tmp_path / "whole")
    original = RunDirectory.save

    def save(self: RunDirectory, progress: Any) -> None:
        if progress.round == 2:
            raise KeyboardInterrupt  # every client of round 2 has answered, and remembers it
        original(self, progress)

    with monkeypatch.context() as context:
        context.setattr(RunDirectory, "save", save)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "parts")
    resumed = run_experiment(prepare(config), RunDirectory(tmp_path / "parts"),
                             Silent())[0]  # fmt: skip
    assert resumed.guarantee == whole["guarantee"]
    assert resumed.checksum == whole["checksum"]


@pytest.mark.slow
def test_of_two_guarantees_the_strongest_is_stated(tmp_path: Path) -> None:
    weak: dict[str, Any] = {"name": "dp-sgd", "noise_multiplier": 0.5}
    strong = {"name": "gaussian", "noise_multiplier": 50.0}
    once = {"rounds": 1}
    training = {"batch_size": 0}
    config = experiment(defense=[weak, strong], federation=once, training=training)
    guarantee = run(config, tmp_path / "run")["guarantee"]
    assert guarantee["unit"] == "client"
    assert guarantee["epsilon"] == pytest.approx(gaussian(2 / 50.0, 1e-5))


@pytest.mark.slow
def test_a_round_that_nobody_answers_fails_the_run(tmp_path: Path) -> None:
    config = experiment(
        defense={"name": "dp-sgd", "noise_multiplier": 1.0, "budget": 5.0},
        training={"batch_size": 0},
        federation={"on_failure": "continue", "rounds": 2, "clients": 2, "clients_per_round": 2},
    )
    with pytest.raises(RunFailed, match=r"round 2: no client answered: .*is spent after 1 rounds"):
        run(config, tmp_path / "run")


@pytest.mark.slow
def test_a_spent_budget_leaves_the_federation_to_the_others(tmp_path: Path) -> None:
    config = experiment(
        defense={"name": "dp-sgd", "noise_multiplier": 1.0, "budget": 5.0},
        training={"batch_size": 0},  # one round spends 4.38
        federation={"on_failure": "continue", "rounds": 2},
    )
    summary = run(config, tmp_path / "run")
    assert summary["guarantee"]["epsilon"] < 5.0
    assert summary["failures"] and all("is spent" in f["error"] for f in summary["failures"])


@pytest.mark.slow
def test_a_target_is_met_by_what_clients_can_train_on(tmp_path: Path) -> None:
    # A next-token loss needs two tokens: of 240 texts 40 have them, and 36 are left to train on.
    rows = [f"row {place} of six" if place % 6 == 0 else "a" for place in range(240)]
    (tmp_path / "short.csv").write_text("\n".join(["text", *rows]) + "\n")
    config = experiment(
        model={"name": "builtin:gpt2-tiny", "task": "causal-lm"},
        data={"name": str(tmp_path / "short.csv")},
        defense={"name": "dp-sgd", "target_epsilon": 2.0, "delta": 1e-3, "accountant": "rdp"},
        federation={"clients": 2, "clients_per_round": 2, "rounds": 3},
        training={"batch_size": 4},
    )
    guarantee = run(config, tmp_path / "run")["guarantee"]
    assert 1.9 < guarantee["epsilon"] <= 2.0


def test_a_delta_is_held_against_what_clients_can_train_on(tmp_path: Path) -> None:
    rows = [f"row {place} of six" if place % 6 == 0 else "a" for place in range(240)]
    (tmp_path / "short.csv").write_text("\n".join(["text", *rows]) + "\n")
    config = experiment(
        model={"name": "builtin:gpt2-tiny", "task": "causal-lm"},
        data={"name": str(tmp_path / "short.csv"), "evaluate": 0},
        defense={"name": "dp-sgd", "noise_multiplier": 1.0, "delta": 0.1},
        federation={"clients": 2, "clients_per_round": 2},
    )
    with pytest.raises(BadInput, match=r"delta must be below 1 / 2\d, the examples of a client"):
        prepare(config)


@pytest.mark.slow
def test_a_client_that_failed_has_spent_its_epsilon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False])  # the first client's update is not finite, the second's is
    monkeypatch.setattr(clients.update, "all_finite", lambda _: next(answers, True))
    config = experiment(
        defense={"name": "dp-sgd", "noise_multiplier": 10.0, "clip": 10.0},
        federation={"on_failure": "continue", "rounds": 1, "clients": 2, "clients_per_round": 2},
        training={"algorithm": "fedavg", "batch_size": 4},
    )
    summary = run(config, tmp_path / "run")
    (failure,) = summary["failures"]
    assert failure["error"].endswith("training diverged; lower training.learning_rate")
    kept = [str(path) for path in (tmp_path / "run" / "memory").rglob("*") if path.is_file()]
    assert any(f"client={failure['client']}" in path for path in kept)
    assert summary["guarantee"]["composition"] == "1 steps in 1 rounds of the worst client"
