import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from fedsim.captures import place, write_capture
from fedsim.errors import BadInput
from fedsim.files import append_line, write_json
from fedsim.lab.cli import main
from fedsim.lab.compare import compare
from fedsim.lab.display import Silent
from fedsim.lab.report import write_report
from fedsim.lab.report.sections import NOT_TRAINED
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.run.replay import Replay, prepare_replay, run_replay
from fedsim.lab.store.attack import begin_attack
from fedsim.lab.store.run import RunDirectory
from fedsim.messages import Broadcast, Update
from tests.lab.conftest import experiment, preset

pytestmark = pytest.mark.slow  # whole runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run of two rounds with a seed of its own."""
    from fedsim.flower import set_identity

    set_identity()
    made = RunDirectory(tmp_path_factory.mktemp("runs") / "run")
    config = experiment(
        seed=5,
        federation={"rounds": 2, "clients": 2, "clients_per_round": 2},
        attack=[{"name": "dager"}],
    )
    made.create(config)
    run_experiment(prepare(config), made, Silent())
    return made


def replay(captures: Path, *words: str, out: Path | None = None) -> Replay:
    return prepare_replay(captures, "dager", words, out)


def go(made: Replay) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    summary = run_replay(made, Silent())[0].as_dict()
    lines = (made.out / "reconstructions.jsonl").read_text().splitlines()
    return summary, [json.loads(line) for line in lines]


def test_a_replay_guesses_what_the_live_run_did(run: RunDirectory, tmp_path: Path) -> None:
    summary, rows = go(replay(run.root, out=tmp_path / "out"))
    live = run.rows("reconstructions.jsonl")
    kept = ("attack", "role", "round", "client", "sequences", "texts", "diagnostics", "error")
    assert [[row[k] for k in kept] for row in rows] == [[row[k] for k in kept] for row in live]
    told = json.loads((run.root / "summary.json").read_text())
    assert summary["leakage"] == told["leakage"]
    assert summary["verdicts"] == told["verdicts"]
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())


def test_an_attack_on_a_run_has_a_report_and_can_be_compared(
    run: RunDirectory, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    go(replay(run.root, "rounds=[2]", out=out))
    page = write_report(out, redact=False).read_text()
    told = [sample for sample in run.samples(run.summary()) if sample.round == 2]
    assert told and all(escape(sample.truth) in page for sample in told)
    mine, live = (
        list(csv.DictReader((directory / "report/samples.csv").read_text().splitlines()))
        for directory in (out, write_report(run.root, redact=False).parent)
    )
    times = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in times} for row in mine] == [
        {k: v for k, v in row.items() if k not in times} for row in live if row["round"] == "2"
    ]
    assert escape(NOT_TRAINED) in page and "All rounds" not in page
    comparison = compare([run.root, out])
    (against,) = comparison["runs"]
    assert against["leakage"]["dager"]["updates"] == 2  # of round 2 alone, paired
    assert against["leakage"]["dager"]["metrics"]["bag_f1"]["difference"]["mean"] == 0.0
    assert against["utility"] is None


def test_an_attack_keeps_the_runs_guarantee(run: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(run.root, copy.root)
    summary = json.loads((copy.root / "summary.json").read_text())
    told = {"epsilon": 3.0, "delta": 1e-5, "unit": "client"}
    write_json(copy.root / "summary.json", {**summary, "guarantee": told})
    summary, _ = go(replay(copy.root))
    assert summary["guarantee"] == told


def test_an_attack_whose_run_is_gone_has_no_report(run: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(run.root, copy.root)
    go(replay(copy.root, out=tmp_path / "out"))
    shutil.rmtree(copy.root)
    with pytest.raises(BadInput, match=r"an attack on the run in .*, which is no finished run"):
        write_report(tmp_path / "out", redact=False)
    write_json(tmp_path / "out" / "attack.json", {"schema": 1})
    with pytest.raises(BadInput, match=r"attack\.json: wanted a table with config; give"):
        write_report(tmp_path / "out", redact=False)


def test_an_attack_on_a_run_that_was_not_finished_says_what_to_do(
    run: RunDirectory, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.root, copy)
    (copy / "summary.json").unlink()
    go(replay(copy, out=tmp_path / "out"))
    wanted = r"captures of no finished run.*finish the run \(fedsim run --out RUN --resume\)"
    with pytest.raises(BadInput, match=wanted):
        write_report(tmp_path / "out", redact=False)
    with pytest.raises(BadInput, match=wanted):
        compare([run.root, tmp_path / "out"])


def test_what_an_attack_on_another_run_left_is_not_mixed_in(
    run: RunDirectory, tmp_path: Path
) -> None:
    out, other = tmp_path / "out", RunDirectory(tmp_path / "other")
    go(replay(run.root, "rounds=[1]", out=out))
    assert (out / "attack.json").exists()
    shutil.copytree(run.root, other.root)
    (other.root / "summary.json").unlink()  # of a run that is not finished there is no report
    go(replay(other.root, "rounds=[1]", out=out))
    with pytest.raises(
        BadInput, match="of no finished run"
    ):  # least of all with the first one's truth
        write_report(out, redact=False)


def test_an_attack_that_was_cut_short_leaves_no_results_of_the_one_before(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    go(replay(run.root, "rounds=[1]", out=out))
    again = replay(run.root, "rounds=[2]", out=out)
    monkeypatch.setattr("fedsim.lab.run.replay.read_capture", lambda where: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_replay(again, Silent())
    with pytest.raises(BadInput, match="holds neither a run nor a sweep"):
        write_report(out, redact=False)


def test_a_replay_draws_by_the_seed_of_the_run(run: RunDirectory) -> None:
    assert replay(run.root).seed == 5
    assert replay(run.root, "seed=9").seed == 9


def test_the_captures_of_a_run_are_found_from_either_place(run: RunDirectory) -> None:
    for root in (run.root, run.captures):
        made = replay(root)
        assert [(capture.round, capture.client) for capture in made.captures] == [
            (1, 0),
            (1, 1),
            (2, 0),
            (2, 1),
        ]
        assert made.truths is not None and made.pool
        assert made.out.parent == run.root


def test_rounds_and_clients_can_be_chosen(run: RunDirectory, tmp_path: Path) -> None:
    summary, _ = go(replay(run.root, "rounds=[2]", "clients=[1]", out=tmp_path / "out"))
    assert [(entry["round"], entry["client"]) for entry in summary["attacks"]] == [(2, 1)]


def test_results_of_other_settings_lie_elsewhere(run: RunDirectory) -> None:
    places = [replay(run.root, *words).out for words in ((), ("max_pairs=7",), ("seed=2",))]
    assert len(set(places)) == 3
    assert replay(run.root).out == places[0]


def test_a_replay_replaces_the_one_before(run: RunDirectory, tmp_path: Path) -> None:
    first = go(replay(run.root, "rounds=[1]", out=tmp_path / "out"))[1]
    again = go(replay(run.root, "rounds=[1]", out=tmp_path / "out"))[1]
    assert [row["sequences"] for row in again] == [row["sequences"] for row in first]


def test_what_is_not_an_attacks_stays(run: RunDirectory, tmp_path: Path) -> None:
    mine = [tmp_path / "samples.jsonl", tmp_path / "errors" / "mine.txt"]
    mine[1].parent.mkdir()
    for path in mine:
        path.write_text("mine")
    begin_attack(tmp_path)
    assert all(path.read_text() == "mine" for path in mine)
    go(replay(run.root, "rounds=[1]", out=tmp_path))
    theirs = mine[1].parent / "round=1" / "client=0" / "dager-attack.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("of an attempt before")
    begin_attack(tmp_path)
    assert mine[1].read_text() == "mine"
    assert not theirs.exists() and not mine[0].exists()


def test_captures_from_elsewhere_have_no_truth(run: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(run.captures / "round=1", tmp_path / "seen" / "round=1")
    made = replay(tmp_path / "seen", out=tmp_path / "out")
    assert made.truths is None
    summary, rows = go(made)
    assert all(row["sequences"] for row in rows)  # they are read all the same
    assert summary["leakage"] == {"dager": {}}
    assert summary["verdicts"]["dager"]["verdict"] == "inconclusive"
    assert {entry["samples"] for entry in summary["attacks"]} == {0}


def test_masked_updates_are_left_out_and_the_tap_s_notes_repeated(
    run: RunDirectory, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    shutil.copytree(run.captures / "round=1", seen / "round=1")
    with pytest.raises(BadInput, match=r"masked updates alone.*only the sum"):
        for client in (1, 0):
            path = seen / "round=1" / f"client={client}" / "observation.json"
            record = json.loads(path.read_text())
            write_json(path, record | {"kind": "masked"})
            made = replay(seen, out=tmp_path / "out")
            assert [(c.round, c.client) for c in made.captures] == [(1, 0)]
    write_json(path, record)  # client 0's as it was
    note = {"reason": "the reply holds no arrays\x1b[2J", "round": 1, "client": 1}
    (seen / "notes.jsonl").write_text(2 * f"{json.dumps(note)}\n")
    said = go(replay(seen, out=tmp_path / "out"))[0]["notes"]
    line = "The tap notes: the reply holds no arrays\\x1b[2J (first: round 1, client 1)"
    assert [told for told in said if "The tap" in told] == [line]


def test_where_nothing_was_captured_the_notes_say_why(tmp_path: Path) -> None:
    note = {"reason": "the reply holds no arrays", "round": 3, "client": 1}
    append_line(tmp_path / "captures" / "notes.jsonl", note)
    for root in (tmp_path, tmp_path / "captures"):
        with pytest.raises(BadInput, match=r"holds no capture.*; The tap notes: the reply holds"):
            replay(root)


def test_the_number_of_labels_is_read_off_the_head(tmp_path: Path) -> None:
    # Captures of a stock project name no model: what the head's rows say must do.
    weights = preset().initial_parameters()
    weights["score.weight"] = weights["score.weight"][:1].repeat(7, 1)
    sent = Broadcast(round=1, parameters=weights)
    update = Update(tensors=weights, kind="gradient", num_examples=1)
    write_capture(place(tmp_path, 1, 0), 0, sent, update, {})
    assert replay(tmp_path, "model.name=builtin:gpt2-tiny").adapter.spec.num_labels == 7
    with pytest.raises(BadInput, match=r"model\.name: the captures do not say which model"):
        replay(tmp_path)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("rounds=1", "rounds"),
        ("rounds=[0]", "rounds"),
        ("clients=all", "clients"),
        ("knowledge=everything", "knowledge"),
        ("knowledge={label=true}", "did you mean 'labels'"),
        ("rounds=[7]", "none of the rounds and clients"),
        ("seed=one", "seed: wanted an integer.*got 'one'"),
        ("seed=-1", "seed: wanted an integer.*got -1"),
        ("max_pair=1", "did you mean 'max_pairs'"),
        ("max_pairs=0", "max_pairs must be > 0, got 0"),
        ("max_pairs=many", "max_pairs"),
        ("model=gpt2", "model: wanted"),
        ("training.optimizer=sgd", "training.optimizer: these captures say themselves how"),
        ("data.max_length=8", "data.max_length: these captures say themselves how"),
        ("model.nam=gpt2", "did you mean 'model.name'"),
        ("model.name=3", "model.name"),
        ("model.freeze=3", "model.freeze"),
        ("model.lora_rank=two", "model.lora_rank"),
        ("model.task=chat", "model.task"),
        ("model.name=builtin:llama-tiny", "transformer.h.0"),  # not the model of the captures
    ],
)
def test_bad_input(run: RunDirectory, tmp_path: Path, word: str, line: str) -> None:
    with pytest.raises(BadInput, match=line) as caught:
        replay(run.root, word, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def spoilt(run: RunDirectory, root: Path, **changes: Any) -> Path:
    """A copy of the run whose first capture says something else."""
    shutil.copytree(run.root, root)
    path = place(root / "captures", 1, 0) / "observation.json"
    record = json.loads(path.read_text())
    write_json(path, {**record, **changes})
    return root


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"round": 2}, "wanted round 1 as its directory says, got 2"),
        ({"client": 1}, "wanted client 0 as its directory says, got 1"),
        ({"cohort": [1]}, "cohort must be"),
        ({"config": {"local_epochs": 10**9}}, "local_epochs from 1 to 10,000"),
        ({"model": {"name": "builtin:gpt2-tiny", "num_labels": 10**9}}, "num_labels: the head"),
        ({"model": {"name": "builtin:gpt2-tiny", "colour": 1}}, "unknown key 'model.colour'"),
        ({"model": {"name": "builtin:gpt2-tiny", "seed": -1}}, "model.seed: wanted 0 to"),
        ({"model": {"name": "builtin:gpt2-tiny", "dropout": "much"}}, "model.dropout: wanted"),
    ],
)
def test_a_capture_that_cannot_be_is_bad_input(
    run: RunDirectory, tmp_path: Path, changes: dict[str, Any], line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = spoilt(run, tmp_path / "run", **changes)
    words = ["attack", str(root), "--attack", "dager", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    (said,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("fedsim: ")]
    assert line in said


def test_results_never_replace_a_run(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    write_json(tmp_path / "sweep" / "sweep.json", {})
    for out in (run.root, tmp_path / "file", tmp_path / "sweep"):
        with pytest.raises(BadInput, match="choose another directory"):
            replay(run.root, out=out)


def test_no_captures_no_replay(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a directory"):
        replay(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="holds no capture"):
        replay(tmp_path)


def test_a_vault_of_another_key_is_no_truth(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_KEY_FILE", str(tmp_path / "other.key"))
    made = replay(run.root, "rounds=[1]", "clients=[0]", out=tmp_path / "out")
    assert made.truths is None and not made.pool
    summary, rows = go(made)
    assert all(row["sequences"] for row in rows)  # it is read all the same
    (note,) = [note for note in summary["notes"] if note.startswith("No truth: ")]
    assert "is not sealed with the key in" in note and str(tmp_path / "other.key") in note
    assert summary["verdicts"]["dager"]["verdict"] == "inconclusive"
    with pytest.raises(BadInput, match="is not sealed with the key"):  # nor does the run go on
        run_experiment(prepare(run.config()), run, Silent())
