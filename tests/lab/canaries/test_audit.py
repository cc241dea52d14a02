"""The canary audit: a correct run stands, two planted bugs are found; the bounds of recovery."""

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from defenses import DEFENSES, DPSGD, Gaussian
from defenses.base import Defense, Here, Memory
from defenses.dp.dp_sgd import _DPSGDRound
from fedsim.errors import BadInput
from fedsim.lab.canaries.audit import ROUNDS, Audit, run_audit
from fedsim.lab.canaries.bounds import mu_hat, one_run
from fedsim.lab.canaries.rounds import Traces
from fedsim.lab.cli import main
from fedsim.lab.commands.base import BAD_INPUT, FINE, LEAK
from fedsim.lab.run.bounds import fano
from fedsim.lab.run.prepare import prepare
from fedsim.lab.run.secrecy import give_secret
from fedsim.lab.store.run import RunDirectory
from fedsim.models import ModelAdapter
from fedsim.rng import Secret
from fedsim.training import Examples, Gradient
from fedsim.types import Parameters
from tests.lab.conftest import experiment

SECRET = Secret(bytes([3]) * 16)
WORDS = ["data.evaluate=8", "data.max_length=12", "federation.rounds=1"]


class Unwatched(_DPSGDRound):
    """A bug is found by canaries here: the wire audit, which finds both at once, looks away."""

    def audit(self, clean: Parameters, sent: Parameters) -> dict[str, float]:
        return {}


class ReadBeforeTheStep(Unwatched):
    """Planted: what is sent is ``grad`` after ``backward``, before anything was done to it."""

    def gradient(self) -> Gradient:
        def leave(m: nn.Module, model: ModelAdapter, some: Examples, g: torch.Generator) -> float:
            losses: Tensor = model.losses(m, model.batch(some.sequences, some.labels, g))
            losses.mean().backward()
            return losses.mean().item()

        return leave


class NoisedByTheServer(Unwatched):
    """Planted: the client clips, and the noise is somebody else's affair."""

    def mechanism(self) -> Any:
        return replace(super().mechanism(), noise_multiplier=0.0)


@dataclass(frozen=True, kw_only=True)
class Planted(DPSGD):
    bug: str = ""

    def begin(self, here: Here) -> Defense:
        kind = {"read": ReadBeforeTheStep, "server": NoisedByTheServer}[self.bug]
        return kind(**{field.name: getattr(self, field.name) for field in fields(DPSGD)}, here=here)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFENSES, "planted", Planted)


RARE = 1e-4  # the chance that a bound of a correct run is too high: noise hangs on all of a config


def audit(
    root: Path, defense: Any, canaries: int = 200, level: float = 0.05, **sections: Any
) -> Audit:
    federation = {"clients": 2, "clients_per_round": 2, "rounds": 2}
    sections = {"training": {"batch_size": 0}, "federation": federation, **sections}
    made, run = prepare(experiment(defense=defense, **sections)), RunDirectory(root)
    give_secret(run.vault, made.defenses, SECRET)
    return run_audit(made, run, canaries, level)


@pytest.mark.slow
def test_a_correct_run_stands(tmp_path: Path) -> None:
    z = 0.5
    audited = audit(tmp_path, {"name": "dp-sgd", "noise_multiplier": z}, level=RARE)
    assert audited.mu_claimed == 1.0 / z
    assert audited.mu.low < 1.0 / z < audited.mu.high
    assert audited.mu.mean == pytest.approx(1.0 / z, rel=0.25)
    assert audited.bound.epsilon < audited.claimed["epsilon"] and audited.kept
    assert audited.epsilon_estimate == pytest.approx(audited.claimed["epsilon"], rel=0.4)


@pytest.mark.slow
def test_fewer_clients_and_a_sampling_rate_stand_too(tmp_path: Path) -> None:
    federation = {"clients": 3, "clients_per_round": 2, "rounds": 2}
    defense = {"name": "dp-sgd", "noise_multiplier": 0.5}
    training = {"batch_size": 60}
    audited = audit(tmp_path, defense, 120, RARE, training=training, federation=federation)
    assert audited.claimed["sampling"].startswith("poisson, rate 0.3")
    assert audited.mu.low < 2.0 < audited.mu.high and audited.kept
    assert audited.canaries in (80, 120)  # of the clients that took part


@pytest.mark.slow
def test_fedavg_adds_up_its_steps(tmp_path: Path) -> None:
    training = {"batch_size": 0, "algorithm": "fedavg", "mini_batch_size": 500, "local_epochs": 2}
    defense = {"name": "dp-sgd", "noise_multiplier": 1.0}
    audited = audit(tmp_path, defense, 60, RARE, training=training)
    assert audited.mu_claimed == math.sqrt(2.0)
    assert audited.mu.low < math.sqrt(2.0) < audited.mu.high and audited.kept
    wrong = {**training, "mini_batch_size": 4}
    with pytest.raises(BadInput, match="wants plain steps that take every example"):
        audit(tmp_path / "b", defense, 40, training=wrong)


@pytest.mark.slow
@pytest.mark.parametrize("bug", ["read", "server"])
def test_planted_bugs_are_far_above_the_claim(tmp_path: Path, bug: str) -> None:
    audited = audit(tmp_path, {"name": "planted", "noise_multiplier": 8.0, "bug": bug}, 120)
    assert audited.claimed["epsilon"] < 1.0
    assert audited.bound.epsilon > 3.0 * audited.claimed["epsilon"]  # certified
    assert audited.epsilon_low > 10.0 * audited.claimed["epsilon"]
    assert not audited.kept
    assert audited.as_dict()["epsilon_estimate"] == "inf"


@pytest.mark.slow
def test_what_stands_beside_the_claim_is_left_out(tmp_path: Path) -> None:
    defense = {"name": "dp-sgd", "noise_multiplier": 0.5}
    three = {"clients": 3, "clients_per_round": 3, "rounds": 2}
    alone = audit(tmp_path / "alone", defense, 60, federation=three)
    for name in ("secagg", "central-dp"):
        beside = audit(tmp_path / name, [defense, {"name": name}], 60, federation=three)
        assert beside == alone


@pytest.mark.slow
def test_a_clients_guarantee_is_audited_by_clients(tmp_path: Path) -> None:
    audited = audit(tmp_path, {"name": "gaussian", "noise_multiplier": 2.0}, 20, RARE)
    assert audited.mu_claimed == 1.0 and audited.claimed["unit"] == "client"
    assert audited.mu.low < 1.0 < audited.mu.high and audited.kept


# The command


def test_the_two_bounds_share_the_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coins = torch.Generator().manual_seed(3)
    inside = (torch.rand(400, generator=coins) < 0.5).tolist()
    values = torch.randn(400, generator=coins) + torch.tensor(inside).float()  # exactly as claimed
    traces = Traces(
        inside=inside,
        totals=values.tolist(),
        present=[trace for trace, there in zip(values.tolist(), inside, strict=True) if there],
        absent=[trace for trace, there in zip(values.tolist(), inside, strict=True) if not there],
        memories=[Memory(values={"history": [(1.0, 1.0, 1)], "rounds": 1})],
    )
    monkeypatch.setitem(ROUNDS, "example", lambda *_: traces)
    audited = audit(tmp_path, {"name": "dp-sgd", "noise_multiplier": 1.0}, 400)
    assert audited.level == 0.05
    assert audited.mu == mu_hat(traces.present, traces.absent, 0.025)
    assert audited.bound == one_run(traces.inside, traces.totals, 1e-5, 0.025)


@pytest.mark.slow
def test_the_command_says_what_it_found(tmp_path: Path, capsys: Any) -> None:
    defense = 'defense={name="dp-sgd", noise_multiplier=1.0}'
    (tmp_path / "secret").write_text(SECRET.value.hex())
    words = ["audit-dp", *WORDS, defense, "training.batch_size=0", "--canaries", "40",
             "--secret", "secret"]  # fmt: skip
    assert main([*words, "--out", "a"]) == FINE
    said = capsys.readouterr().out
    assert "claimed: epsilon 4.377 at delta 1e-05 for one example" in said
    assert "one-run bound (99.50%)" in said and "the claim stands" in said
    told = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert told["claimed"]["secret"] == "given"
    planted = 'defense={name="planted", noise_multiplier=20.0, bug="read"}'
    words[words.index(defense)] = planted
    assert main([*words, "--out", "b", "--json"]) == LEAK
    said = capsys.readouterr().out
    assert '"kept": false' in said and '"level": 0.01' in said  # exit 1 stops a pipeline


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["defense=none"], "wants one that claims a guarantee, got NoDefense"),
        (['defense={name="central-dp"}'], "wants one that claims a guarantee, got CentralDP"),
        (['defense={name="dp-sgd", noise_multiplier=0.0}'], "adds no noise"),
        (['defense={name="gaussian"}', "--canaries", "3"], "--canaries: must be at least 20"),
        (['defense={name="gaussian"}', "--level", "0.7"], "--level: must be in"),
        (['defense={name="dp-sgd", noise_multiplier=-1.0}'], "noise_multiplier must be >= 0"),
        (['defense={name="dp-sgd", noise_multiplier=1.0, delta=0.2}'], "delta must be below"),
        (['defense={name="dp-sgd", noise_multiplier=1.0, sampling="fixed"}'], "must be poisson"),
        pytest.param(
            ['defense={name="dp-sgd", target_epsilon=1e-9, delta=1e-12}'],
            "cannot be met",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, capsys: Any) -> None:
    assert main(["audit-dp", *WORDS, *words]) == BAD_INPUT
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("fedsim: ")]
    assert message in line


@pytest.mark.slow
def test_a_rate_too_small_for_the_canaries_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="too few canaries were trained on"):
        few = {"clients": 2, "clients_per_round": 2, "rounds": 1}
        defense = {"name": "dp-sgd", "noise_multiplier": 1.0}
        audit(tmp_path, defense, 20, training={"batch_size": 1}, federation=few)


# Bounds


@pytest.mark.parametrize(
    ("nats", "tokens", "most"), [(0.5, 20, (0.5 + math.log(2)) / 70), (1e4, 5, 1.0), (0.0, 0, 1.0)]
)
def test_fano(nats: float, tokens: int, most: float) -> None:
    assert fano(nats, tokens) == pytest.approx(most)


def test_information_is_one_over_two_z_squared() -> None:
    # A client's two extremes lie 2 C apart: variance C^2, against (z C)^2.
    assert DPSGD(noise_multiplier=0.5).nats() == Gaussian(noise_multiplier=0.5).nats() == 2.0
