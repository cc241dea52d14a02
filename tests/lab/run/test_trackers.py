import os
from pathlib import Path
from typing import Any

import pytest

import fedsim.lab.run.trackers
from fedsim.errors import BadInput
from fedsim.files import read_json
from fedsim.lab.config import check
from fedsim.lab.config.labels import flat
from fedsim.lab.run.prepare import prepare
from fedsim.lab.run.trackers import TRACKERS, check_trackers, curves, environment, track
from fedsim.lab.store.rounds import RoundRecord
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.summary import Summary
from tests.lab.conftest import experiment
from tests.lab.runs import go

ROUNDS = [
    RoundRecord(round=0, utility=0.5, measures={"accuracy": 0.5}, checksum="a", seconds=1.0),
    RoundRecord(round=1, utility=0.75, measures={"accuracy": 0.75}, checksum="b", seconds=2.0),
    RoundRecord(round=2, utility=None, measures=None, checksum="c", seconds=3.0),
]


def entry(round_: int, samples: int, **metrics: float) -> dict[str, Any]:
    return {
        "attack": "dager", "round": round_, "client": 0, "samples": samples, "seconds": 1.0,
        "verdict": "leak", "metrics": metrics, "controls": {},
    }  # fmt: skip


SUMMARY = Summary.model_validate(
    {
        "schema": 1,
        "name": "mine",
        "seed": 1,
        "utility": {"metric": "accuracy", "before": 0.5, "after": 0.75},
        "attacks": [entry(1, 1, rouge1=100.0), entry(1, 3, rouge1=20.0), entry(2, 0)],
        "leakage": {},
        "verdicts": {},
    }
)
CURVES = [
    ("utility/accuracy", 0, 0.5),
    ("seconds", 0, 1.0),
    ("utility/accuracy", 1, 0.75),
    ("seconds", 1, 2.0),
    ("seconds", 2, 3.0),
    ("leakage/dager/rouge1", 1, 40.0),  # a mean over samples: (100 + 3 x 20) / 4
]


def tracked(root: Path, name: str) -> Path:
    pytest.importorskip(TRACKERS[name].package, reason=f"the extra {name!r} is not installed")
    run = RunDirectory(root / "run")
    run.create(experiment(tracker=name))
    for record in ROUNDS:
        run.note_round(record)
    for _ in range(2):  # the second time in place of the first
        track(run, SUMMARY, run.config().tracker)
    return run.root / "trackers" / name


def test_the_curves_are_per_round_means_over_samples() -> None:
    assert list(curves(ROUNDS, SUMMARY)) == CURVES


def test_the_config_is_written_flat() -> None:
    tree = {"a": {"b": 1}, "c": [{"d": [1, 2]}, {}], "e": []}
    assert dict(flat(tree)) == {"a.b": "1", "c.0.d": "[1, 2]", "e": "[]"}


def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    root = tracked(tmp_path, "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert len(list(root.iterdir())) == 1
    read = EventAccumulator(str(root)).Reload()
    points = [
        (name, point.step, point.value)
        for name in read.Tags()["scalars"]
        for point in read.Scalars(name)
    ]
    assert sorted(points) == sorted(CURVES)  # none of them needs more than float32


def test_mlflow_reads_the_curves(tmp_path: Path) -> None:
    root = tracked(tmp_path, "mlflow")
    from mlflow.tracking import MlflowClient

    with environment(MLFLOW_ALLOW_FILE_STORE="true", MLFLOW_DISABLE_TELEMETRY="true"):
        client = MlflowClient(tracking_uri=root.as_uri())
        ids = [
            project.experiment_id
            for project in client.search_experiments()
            if project.name == "fedsim"
        ]
        (run,) = client.search_runs(ids)
        names = {name for name, _, _ in CURVES}
        history = [
            (name, point.step, point.value)
            for name in names
            for point in client.get_metric_history(run.info.run_id, name)
        ]
    assert sorted(history) == sorted(CURVES)
    assert run.data.params["model.name"] == "builtin:gpt2-tiny"


@pytest.mark.slow
def test_wandb_writes_offline(tmp_path: Path) -> None:
    root = tracked(tmp_path, "wandb")
    (file,) = root.glob("wandb/offline-run-*/*.wandb")
    text = file.read_bytes()
    assert b"leakage/dager/rouge1" in text and b"builtin:gpt2-tiny" in text


def test_a_missing_package_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fedsim.lab.run.trackers, "find_spec", lambda _: None)
    with pytest.raises(BadInput, match=r"in a checkout of fedsim: pip install '\.\[wandb\]'"):
        check_trackers(["wandb"])
    with pytest.raises(BadInput, match=r"unknown tracker 'wandbb'; did you mean 'wandb'"):
        prepare(experiment(tracker="wandbb"))


def test_the_config_takes_one_or_several() -> None:
    tree = {"model": {"name": "x"}, "data": {"name": "y"}}
    assert check(tree).tracker == []
    assert check(tree | {"tracker": "wandb"}).tracker == ["wandb"]
    assert check(tree | {"tracker": ["wandb", "mlflow"]}).tracker == ["wandb", "mlflow"]


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError("No space\nleft"), KeyError("api_key")])
def test_a_tracker_that_throws_is_noted_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object) -> None:
        raise error

    def write(root: Path, *_: object) -> None:
        (root / "curves").write_text("")

    made = {
        name: fedsim.lab.run.trackers.Tracker(package="json", write=written)
        for name, written in (("broken", broken), ("fine", write))
    }
    monkeypatch.setattr(fedsim.lab.run.trackers, "TRACKERS", made)
    run = RunDirectory(tmp_path / "run")
    config = experiment(tracker=["broken", "fine"], federation={"rounds": 1})
    summary = go(run, config)
    why = "OSError: No space left" if isinstance(error, OSError) else "KeyError: 'api_key'"
    assert summary["notes"][-1] == f"the tracker 'broken' could not run: {why}"
    assert read_json(run.root / "summary.json")["notes"] == summary["notes"]
    assert (run.root / "trackers/fine/curves").exists()


def test_variables_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_A", "1")
    with environment(FEDSIM_A="2", FEDSIM_B="3"):
        assert (os.environ["FEDSIM_A"], os.environ["FEDSIM_B"]) == ("2", "3")
    assert os.environ["FEDSIM_A"] == "1" and "FEDSIM_B" not in os.environ
