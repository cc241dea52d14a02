"""What clients draw where a defense claims a guarantee: from a secret, and only there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clients.holdings import client_examples
from defenses import DPSGD, Defense, Gaussian, TopK
from defenses.base import Memory
from defenses.dp.noise import normal
from fedsim.captures import find_captures, read_capture
from fedsim.errors import BadInput
from fedsim.lab.cli import main
from fedsim.lab.config import Config
from fedsim.lab.run.prepare import named_defenses, prepare
from fedsim.lab.run.secrecy import caveats, claims, clients_secret, give_secret, read_secret
from fedsim.lab.run.settings import client_settings
from fedsim.lab.store.run import RunDirectory
from fedsim.rng import Root, Secret, derive, stream
from fedsim.vault.reader import VaultReader
from tests.lab.conftest import experiment
from tests.lab.runs import Kill, evidence, go

SECRET = Secret(bytes(range(16)))
NOISY = [Gaussian(noise_multiplier=8.0)]


def noisy(**sections: Any) -> Config:
    defense = {"name": "gaussian", "noise_multiplier": 8.0}
    federation = {"clients": 2, "clients_per_round": 2, "rounds": 1}
    tree = {"defense": defense, "federation": federation, "data": {"evaluate": 0}, **sections}
    return experiment(**tree)


def run_with(root: Path, secret: Secret | None, config: Config | None = None) -> RunDirectory:
    run, config = RunDirectory(root), config or noisy()
    run.create(config)
    if secret is not None:
        give_secret(run.vault, prepare(config).defenses, secret)
    go(run, config)
    return run


@pytest.mark.parametrize(
    ("defenses", "expected"),
    [
        ([TopK()], False),
        ([TopK(), Gaussian()], True),
        ([Gaussian(noise_multiplier=0.0)], False),  # which promises nothing
        ([Gaussian(noise_multiplier=5e-5)], False),  # hardly any noise: no more
        ([DPSGD(noise_multiplier=5e-5)], False),
        ([DPSGD(noise_multiplier=0.5)], True),
        ([], False),
    ],
)
def test_who_claims_a_guarantee(defenses: list[Defense], expected: bool) -> None:
    assert claims(defenses) is expected
    known = [Memory(values={"rounds": 1, "history": [(defense.noise_multiplier, 1.0, 1)]})
             for defense in defenses if isinstance(defense, DPSGD | Gaussian)]  # fmt: skip
    assert any(one.spent(known) for one in defenses) is expected  # and what is told


def test_a_secret_is_drawn_once_and_kept(tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    first = clients_secret(vault, NOISY, begun=False)
    assert first is not None
    assert clients_secret(vault, NOISY, begun=True) == first
    assert VaultReader(vault).secret() == (first, False)
    assert clients_secret(tmp_path / "other", NOISY, begun=False) != first


def test_where_nothing_is_claimed_there_is_none(tmp_path: Path) -> None:
    assert clients_secret(tmp_path, [TopK()], begun=False) is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match="--secret: no defense here claims a guarantee"):
        give_secret(tmp_path, [TopK()], SECRET)


def test_a_run_that_drew_from_its_seed_does_not_go_on(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="was begun when noise still came from the seed"):
        clients_secret(tmp_path / "run" / "vault", NOISY, begun=True)


@pytest.mark.parametrize("content", ["", "00" * 15, "00" * 17, "zz" * 16, "00" * 600, None])
def test_a_file_without_a_secret(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match="--secret: wanted a file of 32 hexadecimal digits"):
        read_secret(path)


def test_a_file_with_one(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET.value.hex() + "\n")
    assert read_secret(tmp_path / "secret") == SECRET


def sent(run: RunDirectory, client: int) -> torch.Tensor:
    """Return what a client sent in round 1, flat."""
    tensors = load_file(run.captures / "round=1" / f"client={client}" / "update.safetensors")
    return torch.cat([tensors[name].flatten() for name in tensors])


def bound(run: RunDirectory, secret: Secret, config: Config) -> Secret:
    """Return what client 1 drew from in round 1, by all that its run knew."""
    (place,) = [where for where in find_captures(run.captures) if where.client == 1]
    made, capture = prepare(config), read_capture(place)
    parameters = made.adapter.initial_parameters()
    settings = client_settings(config, made.adapter, made.defenses, run.vault, parameters, secret)
    drawn_from = settings.bound(client_examples(settings, 1), capture.broadcast).secret
    assert drawn_from is not None
    return drawn_from


def likeness(run: RunDirectory, root: Root, draw: Any) -> float:
    """Return how well the noise of ``root`` explains what client 1 sent: a correlation."""
    tensors = load_file(run.captures / "round=1" / "client=1" / "update.safetensors")
    order = load_file(run.captures / "round=1" / "client=1" / "broadcast.safetensors")
    generator = stream(root, "client", 1, "round", 1, "defense", 0)
    made = {
        name: draw(order[name].shape, generator) for name in prepare(noisy()).adapter.trainable()
    }
    both = [torch.cat([one[name].flatten() for name in made]) for one in (tensors, made)]
    return float(torch.corrcoef(torch.stack(both))[0, 1].abs())


@pytest.mark.slow
def test_the_noise_follows_from_the_secret_and_from_nothing_that_is_captured(
    tmp_path: Path,
) -> None:
    run = run_with(tmp_path / "run", SECRET)
    chance = 5 / sent(run, 1).numel() ** 0.5
    whole = bound(run, SECRET, noisy())
    assert likeness(run, whole, normal) > 0.9  # whoever has the secret takes the noise off
    told = json.loads((run.captures / "round=1" / "client=1" / "observation.json").read_text())
    roots: list[Root] = [1, told["model"]["seed"], bound(run, Secret(bytes(16)), noisy())]
    for root in roots:  # the run's seed, too
        assert likeness(run, root, normal) < chance
        by_torch = likeness(run, root, lambda shape, g: torch.randn(shape, generator=g))
        assert by_torch < chance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"attack": "dager", "name": "other", "tracker": "tensorboard", "device": "cpu"}, True),
        ({"federation": {"clients": 2, "clients_per_round": 2, "rounds": 2}}, True),  # may grow
        ({"federation": {"clients": 2, "clients_per_round": 2, "rounds": 1, "timeout": 9.0,
                         "engine": "ray", "on_failure": "continue", "capture": False}}, True),
        ({"defense": {"name": "gaussian", "noise_multiplier": 16.0}}, False),
        ({"defense": [{"name": "topk"}, {"name": "gaussian", "noise_multiplier": 8.0}]}, False),
        ({"training": {"learning_rate": 0.02}}, False),
        ({"data": {"evaluate": 0, "max_length": 11}}, False),
        ({"federation": {"clients": 3, "clients_per_round": 2, "rounds": 1}}, False),
        ({"seed": 2}, False),
        ({"model": {"name": "builtin:bert-tiny"}}, False),
    ],
)  # fmt: skip
def test_runs_that_share_a_secret_share_noise_only_if_they_are_the_same(
    tmp_path: Path, changes: dict[str, Any], same: bool
) -> None:
    def given(config: Config) -> Secret | None:
        model, defenses = prepare(noisy()).adapter, named_defenses(config)
        return client_settings(config, model, defenses, tmp_path, {}, SECRET).secret

    assert (given(noisy()) == given(noisy(**changes))) is same
    assert given(noisy()) not in (SECRET, None)


def test_more_rounds_that_settle_other_noise_are_another_run(tmp_path: Path) -> None:
    made = prepare(noisy())
    settled = [[DPSGD(noise_multiplier=z)] for z in (1.0, 1.5)]  # of one config's target_epsilon
    drawn_from = {
        client_settings(made.config, made.adapter, defenses, tmp_path, {}, SECRET).secret
        for defenses in settled
    }
    assert len(drawn_from) == 2


@pytest.mark.slow
def test_the_noise_of_two_cells_does_not_cancel(tmp_path: Path) -> None:
    # At z and 2 z, twice the one less the other was the update itself.
    other = noisy(defense={"name": "gaussian", "noise_multiplier": 16.0})
    one, two = run_with(tmp_path / "one", SECRET), run_with(tmp_path / "two", SECRET, other)
    for client in (0, 1):
        both = torch.stack([sent(one, client), sent(two, client)])
        assert torch.corrcoef(both)[0, 1].abs() < 5 / both.shape[1] ** 0.5
        assert (2 * both[0] - both[1]).norm() > 16.0  # noise: of the clipped update it is 1


@pytest.mark.slow
def test_no_capture_tells_the_seed(tmp_path: Path) -> None:
    # The field test tried seeds until SHA-256(seed, "model") was what the captures said.
    run = run_with(tmp_path / "run", None, noisy(seed=7))
    for path in run.captures.rglob("observation.json"):
        told = json.loads(path.read_text())["model"]["seed"]
        assert told not in {derive(seed, "model") for seed in range(1000)}


@pytest.mark.slow
def test_runs_differ_but_for_a_secret_that_they_are_given(tmp_path: Path) -> None:
    drawn = [run_with(tmp_path / f"drawn-{i}", None) for i in range(2)]
    given = [run_with(tmp_path / f"given-{i}", SECRET) for i in range(2)]
    assert not torch.equal(*(sent(run, 0) for run in drawn))
    assert evidence(given[0]) == evidence(given[1])
    for runs, origin in ((drawn, "random"), (given, "given")):
        summary = runs[0].summary()
        assert summary.guarantee and summary.guarantee["secret"] == origin
        notes = [note for note in summary.notes if "whoever does not know" in note]
        assert notes == caveats(summary.guarantee) and len(notes) == (origin == "given")
    (tmp_path / "secret").write_text(SECRET.value.hex())
    words = ["run", "defense=gaussian", "--secret", str(tmp_path / "secret")]
    kept = VaultReader(drawn[0].vault).secret()
    assert main([*words, "--out", str(drawn[0].root)]) == 2  # it holds a run, and keeps its own
    assert VaultReader(drawn[0].vault).secret() == kept and kept is not None and not kept[1]


@pytest.mark.slow
def test_the_secret_is_written_nowhere_but_sealed(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", SECRET, noisy(attack="dager"))
    for path in run.root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert SECRET.value not in content and SECRET.value.hex().encode() not in content, path


@pytest.mark.slow
def test_a_run_that_goes_on_draws_from_its_own_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = {"clients": 2, "clients_per_round": 2, "rounds": 2}
    config = noisy(federation=federation, defense={"name": "dp-sgd", "noise_multiplier": 0.5})
    whole = run_with(tmp_path / "whole", SECRET, config)
    parts = RunDirectory(tmp_path / "parts")
    parts.create(config)
    give_secret(parts.vault, prepare(config).defenses, SECRET)
    save = RunDirectory.save

    def killed(self: RunDirectory, progress: Any) -> None:
        save(self, progress)
        raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save", killed)
        with pytest.raises(Kill):
            go(parts, config)
    go(parts, config)
    assert evidence(parts) == evidence(whole)


@pytest.mark.parametrize("home", ["none", "a file", "a file's key"])
def test_a_key_that_cannot_be_kept_is_said_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("FEDSIM_KEY_FILE")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    if home == "none":  # as in a container with a number for a user
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    elif home == "a file":
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
    else:
        monkeypatch.setenv("FEDSIM_KEY_FILE", str(tmp_path / "file" / "vault.key"))
    assert main(["run", "--out", str(tmp_path / "run"), "--quick"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("fedsim: FEDSIM_KEY_FILE: ") and "set it" in line, line
    assert not (tmp_path / "run").exists()
