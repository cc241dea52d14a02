import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedsim.errors import BadInput, MalformedFile
from fedsim.lab.cli import main
from fedsim.lab.run.checks import check_done, check_longer
from fedsim.lab.run.prepare import prepare
from fedsim.lab.store import layout
from fedsim.lab.store.changes import begun_with
from fedsim.lab.store.run import RunDirectory
from tests.lab.conftest import experiment

ATTACK = [{"name": "dager", "rounds": [1]}]
DEFENSE = [{"name": "topk", "fraction": 0.1}]


@pytest.fixture
def begun(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.create(experiment(attack=ATTACK, defense=DEFENSE))
    return run


def edited(**sections: Any) -> Any:
    return experiment(**{"attack": ATTACK, "defense": DEFENSE, **sections})


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"name": "other"}, "name was experiment, is other"),
        ({"training": {"learning_rate": 0.5}}, "training.learning_rate was 0.01, is 0.5"),
        ({"training": {"dropout": True}}, "training.dropout was False, is True"),
        ({"federation": {"strategy": "fedadam"}}, "federation.strategy was fedavg, is fedadam"),
        (
            {"federation": {"strategy": "fedadam", "strategy_options": {"eta": 0.1}}},
            "federation.strategy_options.eta was not there, is 0.1",
        ),
        ({"federation": {"rounds": 2}}, "federation.rounds was 3, is 2"),
        ({"federation": {"capture": False}}, "federation.capture was True, is False"),
        ({"model": {"task": "causal-lm"}}, "model.task was classification, is causal-lm"),
        ({"data": {"evaluate": 17}}, "data.evaluate was 16, is 17"),
        ({"attack": []}, "attack.0.name was dager, is not there"),
        ({"attack": [{"name": "dager", "rounds": [2]}]}, r"attack.0.rounds was \[1\], is \[2\]"),
        ({"defense": [{"name": "topk"}]}, "defense.0.fraction was 0.1, is not there"),
        ({"defense": [*DEFENSE, {"name": "sign"}]}, "defense.1.name was not there, is sign"),
    ],
)
def test_what_would_come_out_otherwise_is_refused(
    begun: RunDirectory, sections: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=rf"config.toml is not what this run began with: .*{said}"):
        begun_with(begun.root, edited(**sections), quick=False)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"federation": {"rounds": 4}},
        {"device": "cpu", "tracker": ["tensorboard"]},
        {"federation": {"engine": "ray", "cpus_per_client": 0.5, "timeout": 9.0}},
        {"federation": {"on_failure": "continue", "gpus_per_client": 0.1, "ray_address": "auto"}},
    ],
)
def test_how_a_run_runs_may_change(begun: RunDirectory, sections: dict[str, Any]) -> None:
    assert begun_with(begun.root, edited(**sections), quick=False) == edited()


def test_a_run_of_before_goes_on_as_it_is(begun: RunDirectory) -> None:
    path, other = begun.root / layout.MANIFEST, edited(seed=2)
    manifest = json.loads(path.read_text())
    del manifest["config"]
    path.write_text(json.dumps(manifest))
    assert begun_with(begun.root, other, quick=False) == other
    path.unlink()
    assert begun_with(begun.root, other, quick=False) == other


def test_controls_are_not_left_out_half_way(tmp_path: Path) -> None:
    for quick in (True, False):
        run = RunDirectory(tmp_path / str(quick))
        run.create(experiment(), quick=quick)
        assert begun_with(run.root, experiment(), quick=quick) == experiment()
        word = "with" if quick else "without"
        with pytest.raises(BadInput, match=f"--quick: this run was begun {word} it"):
            begun_with(run.root, experiment(), quick=not quick)


@pytest.mark.parametrize("key", ["data.name", "model.tokenizer"])
def test_inputs_that_changed_are_another_run(tmp_path: Path, key: str) -> None:
    """Edited data would be noised as what it was: the noise could be subtracted."""
    path, (section, name) = tmp_path / "input", key.split(".")
    path.mkdir()
    (path / "rows.csv").write_text("text,label\na nurse,0\n")
    config = experiment(**{section: {name: str(path)}})
    run = RunDirectory(tmp_path / "run")
    run.create(config)
    assert begun_with(run.root, config, quick=False) == config
    (path / "rows.csv").write_text("text,label\na doctor,0\n")
    with pytest.raises(BadInput, match=rf"{key}: the files are not those that this run began"):
        begun_with(run.root, config, quick=False)
    (path / "rows.csv").unlink()
    path.rmdir()
    with pytest.raises(BadInput, match=rf"{key}: the files are not those"):
        begun_with(run.root, config, quick=False)


@pytest.mark.parametrize("config", [{"seed": "x"}, 7])
def test_a_broken_manifest_is_named_as_such(begun: RunDirectory, config: object) -> None:
    path = begun.root / layout.MANIFEST
    path.write_text(json.dumps({"config": config}))
    with pytest.raises(MalformedFile, match=r"manifest.json[,:] config: .*wanted|manifest"):
        begun_with(begun.root, edited(), quick=False)


def test_a_resumed_run_whose_config_was_edited_ends_in_one_line(
    begun: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (begun.root / layout.CONFIG).write_text(tomli_w.dumps(edited(seed=7).as_toml()))
    assert main(["run", "--out", str(begun.root), "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "seed was 1, is 7; put that back, or begin another run" in line


@pytest.mark.slow
def test_a_longer_run_may_not_be_noised_otherwise() -> None:
    private = [{"name": "dp-sgd", "target_epsilon": 8.0, "accountant": "rdp"}]
    short, long = (
        prepare(experiment(federation={"rounds": rounds}, defense=private)).defenses
        for rounds in (2, 4)
    )
    with pytest.raises(BadInput, match=r"federation.rounds: must stay what it was"):
        check_longer(short, long, experiment())
    check_longer(short, short, experiment())


def test_a_longer_run_may_not_have_had_other_learning_rates() -> None:
    falling = experiment(training={"round_lr_scheduler": "cosine", "final_learning_rate": 1e-6})
    with pytest.raises(BadInput, match=r"for training\.round_lr_scheduler = 'cosine' goes by it"):
        check_longer([], [], falling)


def test_no_more_rounds_may_be_done_than_there_are() -> None:
    check_done(3, experiment())
    with pytest.raises(BadInput, match=r"federation.rounds: must be at least 4"):
        check_done(4, experiment())
