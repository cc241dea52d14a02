import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from fedsim.errors import BadInput
from fedsim.lab.display import Silent
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import rows_of, sample_rows
from tests.lab.conftest import experiment, preset


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, list[dict[str, Any]]]:
    """A run of two rounds, three clients each, and the rows made of it while it was at hand."""
    run = RunDirectory(tmp_path_factory.mktemp("samples") / "run")
    config = experiment(
        federation={"clients": 3, "clients_per_round": 3, "rounds": 2},
        data={"evaluate": 4},
        training={"batch_size": 2, "algorithm": "fedsgd"},
        attack=[{"name": "dager", "rounds": [2]}],
    )
    run.create(config)
    summary, scores = run_experiment(prepare(config), run, Silent())
    return run, rows_of(summary, scores)


def test_the_rows_of_a_directory_are_those_of_the_run(
    done: tuple[RunDirectory, list[dict[str, Any]]],
) -> None:
    run, live = done
    assert sample_rows(run) == live
    places = [(row["round"], row["client"], row["sample"]) for row in live]
    assert places == [(2, client, sample) for client in range(3) for sample in range(2)]


def test_a_row_says_what_the_vault_and_the_summary_say(
    done: tuple[RunDirectory, list[dict[str, Any]]],
) -> None:
    run, rows = done
    summary = json.loads((run.root / "summary.json").read_text())
    decode = preset().tokenizer.decode
    for entry in summary["attacks"]:
        mine = [row for row in rows if row["client"] == entry["client"]]
        lines = (run.vault / f"round=2/client={entry['client']}.jsonl").read_text().splitlines()
        assert [row["truth_tokens"] for row in mine] == [json.loads(one)["tokens"] for one in lines]
        for row in mine:
            assert row["truth"] == decode(row["truth_tokens"])
            assert row["guess"] == decode(row["guess_tokens"])
            assert row["exact_match"] == float(row["truth_tokens"] == row["guess_tokens"])
            assert row["verdict"] == entry["verdict"] and row["settings"] == entry["settings"]
            assert row["control_positive_bag_f1"] == entry["controls"]["positive"]["bag_f1"]
        for metric in set(entry["metrics"]) - {"precision"}:
            assert fmean(row[metric] for row in mine) == pytest.approx(entry["metrics"][metric])


def test_a_run_that_is_not_there_or_not_finished_is_bad_input(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(BadInput, match=r"holds no run \(no config.toml\)"):
        sample_rows(run)
    run.create(experiment())
    with pytest.raises(BadInput, match=r"not finished .* --resume"):
        sample_rows(run)
