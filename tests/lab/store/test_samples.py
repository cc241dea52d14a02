import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from fedsim.errors import BadInput, MalformedFile, MalformedMessage
from fedsim.lab.display import Silent
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.scoring.scored import samples_of
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import Sample
from fedsim.lab.store.summary import Summary
from fedsim.records import read_record
from fedsim.vault.reader import VaultReader
from tests.lab.conftest import experiment, preset
from tests.lab.synthetic import synthetic_run

pytestmark = pytest.mark.slow  # whole runs

Done = tuple[RunDirectory, list[Sample]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run of two rounds, three clients each, and the samples of the scores that were at hand."""
    run = RunDirectory(tmp_path_factory.mktemp("samples") / "run")
    config = experiment(
        federation={"clients": 3, "clients_per_round": 3, "rounds": 2},
        data={"evaluate": 4},
        training={"batch_size": 2, "algorithm": "fedsgd"},
        attack=[{"name": "dager", "rounds": [2]}],
    )
    run.create(config)
    _, scores = run_experiment(prepare(config), run, Silent())
    return run, samples_of(scores)


def test_a_run_leaves_its_samples(done: Done) -> None:
    run, live = done
    assert run.samples(run.summary()) == live
    places = [(sample.round, sample.client, sample.sample) for sample in live]
    assert places == [(2, client, sample) for client in range(3) for sample in range(2)]


def test_a_line_says_what_the_vault_and_the_summary_say(done: Done) -> None:
    run, _ = done
    rows = [json.loads(line) for line in (run.root / "samples.jsonl").read_text().splitlines()]
    summary = json.loads((run.root / "summary.json").read_text())
    decode = preset().tokenizer.decode
    assert len(summary["attacks"]) > 1 and len(rows) > 1
    for entry in summary["attacks"]:
        mine = [row for row in rows if row["client"] == entry["client"]]
        truth = VaultReader(run.vault).truth(2, entry["client"])
        assert truth and [tuple(row["truth_tokens"]) for row in mine] == list(truth.sequences)
        for row in mine:
            assert row["truth"] == decode(row["truth_tokens"])
            assert row["guess"] == decode(row["guess_tokens"])
            assert row["exact_match"] == float(row["truth_tokens"] == row["guess_tokens"])
            assert row["verdict"] == entry["verdict"] and row["settings"] == entry["settings"]
            assert row["control_positive_bag_f1"] == entry["controls"]["positive"]["bag_f1"]
        for metric in set(entry["metrics"]) - {"precision"}:
            assert fmean(row[metric] for row in mine) == pytest.approx(entry["metrics"][metric])


def test_a_sample_knows_its_figures(done: Done) -> None:
    assert len(done[1]) > 1
    for sample in done[1]:
        assert sample.exact == (sample.truth_tokens == sample.guess_tokens)
        assert sample.overlap == sample.metrics["bag_f1"]
        assert sample.chance == sample.as_row()["control_no_gradient_bag_f1"]


def test_a_run_that_is_not_there_or_not_finished_is_bad_input(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(BadInput, match=r"holds no run \(no config.toml\)"):
        run.summary()
    run.create(experiment())
    with pytest.raises(BadInput, match=r"not finished .* --resume"):
        run.summary()


def _without(lines: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != key} for line in lines]


def test_samples_that_are_not_those_of_the_summary_are_no_result(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", rounds=1, batch=1)
    path, summary = run.root / "samples.jsonl", run.summary()
    lines = run.rows("samples.jsonl")
    for broken, line in (
        (lines[:1], r"files do not fit together: samples.jsonl has 1 lines, .* of 2; run it again"),
        (
            lines[::-1],
            r"together: samples.jsonl, line 1 is dager in round 1 of client 1, in summary.json it "
            r"is dager in round 1 of client 0; run it again",
        ),
        (_without(lines, "truth"), "samples.jsonl, line 1: truth: wanted"),
        (_without(lines, "bag_f1"), "line 1: metrics: wanted .*bag_f1"),
        ([lines[0], 3], "line 2: all of it: wanted"),
    ):
        path.write_text("".join(json.dumps(row) + "\n" for row in broken))
        with pytest.raises(MalformedMessage, match=line):
            run.samples(summary)
    path.unlink()
    with pytest.raises(MalformedMessage, match=r"samples.jsonl is missing, as in runs of before"):
        run.samples(summary)


def test_a_summary_of_more_samples_than_there_are_is_no_result(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", rounds=1, batch=1)
    path = run.root / "summary.json"
    whole = json.loads(path.read_text())
    whole["attacks"][0]["samples"] = 10**18  # as a list it would not fit in any memory
    path.write_text(json.dumps(whole))
    with pytest.raises(MalformedMessage, match=rf"has 2 lines, .* speaks of {10**18 + 1}; run it"):
        run.samples(run.summary())


@pytest.mark.parametrize("key", ["samples", "guesses", "wordless", "seconds"])
def test_what_is_counted_in_a_summary_is_not_negative(tmp_path: Path, key: str) -> None:
    path = tmp_path / "summary.json"
    entry = {"attack": "dager", "round": 1, "client": 0, "samples": 2, "seconds": 1.0}
    entry |= {"verdict": "leak", "metrics": {}, "controls": {}}
    whole = {"schema": 1, "name": "a", "seed": 1, "leakage": {}, "verdicts": {}}
    path.write_text(json.dumps(whole | {"attacks": [entry]}))
    assert read_record(path, Summary).attacks[0].count("bag_f1") == 2
    path.write_text(json.dumps(whole | {"attacks": [entry | {key: -1}]}))
    with pytest.raises(MalformedFile, match=f"attacks.0.{key}: wanted greater than or equal to 0"):
        read_record(path, Summary)
