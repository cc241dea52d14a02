"""Runs of before samples.jsonl was written: shown as they were, with nothing in them changed."""

import json
import shutil
from pathlib import Path

import pytest

from fedsim.errors import MalformedMessage
from fedsim.lab.display import Silent
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.scoring.again import samples_of_run
from fedsim.lab.store.run import RunDirectory
from tests.lab.conftest import experiment


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("again") / "run")
    config = experiment(
        federation={"clients": 2, "clients_per_round": 2, "rounds": 1},
        data={"evaluate": 4},
        training={"batch_size": 2, "algorithm": "fedsgd"},
        attack=[{"name": "dager"}],
    )
    run.create(config)
    run_experiment(prepare(config), run, Silent())
    return run


@pytest.fixture
def older(written: RunDirectory, tmp_path: Path) -> RunDirectory:
    """The same run, as it was left before samples.jsonl was written."""
    run = RunDirectory(shutil.copytree(written.root, tmp_path / "older"))
    (run.root / "samples.jsonl").unlink()
    return run


@pytest.mark.slow
def test_an_older_run_has_the_same_samples(written: RunDirectory, older: RunDirectory) -> None:
    before = {path: path.read_bytes() for path in older.root.rglob("*") if path.is_file()}
    samples = samples_of_run(older, older.summary())
    assert len(samples) == 4
    assert samples == samples_of_run(written, written.summary())
    assert before == {path: path.read_bytes() for path in older.root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_quick_run_stays_quick(older: RunDirectory) -> None:
    path = older.root / "summary.json"
    summary = json.loads(path.read_text())
    for entry in summary["attacks"]:
        entry |= {"verdict": "inconclusive", "reason": "The controls were skipped.", "controls": {}}
    path.write_text(json.dumps(summary))
    samples = samples_of_run(older, older.summary())
    assert samples and {sample.verdict for sample in samples} == {"inconclusive"}
    assert all(sample.controls == {} and sample.chance is None for sample in samples)


def test_without_its_truth_an_older_run_is_not_shown_as_unread(older: RunDirectory) -> None:
    shutil.rmtree(older.vault)
    with pytest.raises(MalformedMessage, match=r"samples.jsonl is missing.* truth in .*vault"):
        samples_of_run(older, older.summary())
