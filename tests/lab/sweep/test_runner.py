import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fedsim.lab.sweep.cells
from fedsim.errors import BadInput
from fedsim.lab.cli import main
from fedsim.lab.display import Silent
from fedsim.lab.run.prepare import prepare
from fedsim.lab.store.lock import held
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.sweep import CellEnd
from fedsim.lab.sweep.cells import attack_captures, run_cell
from fedsim.lab.sweep.directory import Ledger, SweepDirectory
from fedsim.lab.sweep.grid import SweepPlan, make_plan
from fedsim.lab.sweep.runner import Queue, check_cells, run_cells
from fedsim.lab.sweep.table import read_table, write_table
from tests.lab.conftest import experiment
from tests.lab.runs import Kill, evidence, go

pytestmark = pytest.mark.slow  # whole runs

TIMES = ["seconds", "cell_seconds"]
BASE: dict[str, Any] = {
    "model": {"name": "builtin:gpt2-tiny"},
    "data": {"name": "builtin:clinic", "evaluate": 4, "max_length": 12},
    "federation": {"clients": 2, "rounds": 2},
    "training": {"batch_size": 2},
    "attack": [{"name": "dager", "rounds": [2]}],
}


def planned(*words: str, **base: Any) -> SweepPlan:
    return make_plan(BASE | base, words, quick=False)


def sweep(root: Path, plan: SweepPlan, *, jobs: int = 1) -> pd.DataFrame:
    """Run what is left of a sweep, as the command line does."""
    directory = SweepDirectory(root)
    directory.claim(plan)
    check_cells(plan.cells, jobs)
    with held(directory.root):
        ledger = Ledger(directory, plan)
        run_cells(plan.cells, directory, ledger, Silent(), jobs=jobs)
        return write_table(directory, ledger.sweep())


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one.drop(columns=TIMES), other.drop(columns=TIMES))


# Captures are reused


def test_attacking_a_cells_captures_is_a_full_run(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"federation": {"clients": 4, "clients_per_round": 3, "rounds": 2}}
    trained = experiment(**sections, attack=[{"name": "dager", "rounds": [1]}])
    config = experiment(**sections, attack=[{"name": "dager", "max_pairs": 999, "clients": [0, 1]}])
    source, whole, reused = [RunDirectory(tmp_path / one) for one in ("source", "whole", "reused")]
    go(source, trained)
    go(whole, config)
    reused.create(config)
    attack_captures(prepare(config), reused, source, Silent())
    assert evidence(reused) == evidence(whole)
    assert len(reused.rows("reconstructions.jsonl")) > 0
    again = RunDirectory(reused.root)
    assert go(again, config)["checksum"] == go(whole, config)["checksum"]  # it is a run of its own


def test_captures_that_are_gone_are_no_result(tmp_path: Path) -> None:
    plan = planned("attack.max_pairs=5,1000")
    whole = sweep(tmp_path, plan)
    first, second = [SweepDirectory(tmp_path).cell(cell.name) for cell in plan.cells]
    shutil.rmtree(first / "captures/round=1")  # no attack wants it
    shutil.rmtree(second)
    same(sweep(tmp_path, plan), whole)
    shutil.rmtree(second)
    shutil.rmtree(first / "captures/round=2/client=1")
    table = sweep(tmp_path, plan)
    (error,) = table["error"].dropna()
    assert error.startswith("round 2, client 1: the capture is gone from ")
    assert f"remove {first}, and it is trained again" in error
    shutil.rmtree(first)
    same(sweep(tmp_path, plan), whole)


def test_a_sums_capture_holds_all_its_clients(tmp_path: Path) -> None:
    config = experiment(federation={"rounds": 1}, attack=[{"name": "dager"}],
                        defense="secagg")  # fmt: skip
    source, run = RunDirectory(tmp_path / "source"), RunDirectory(tmp_path / "run")
    go(source, config)
    run.create(config)
    attack_captures(prepare(config), run, source, Silent())
    assert evidence(run) == evidence(source)


def test_a_killed_attack_on_captures_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(federation={"clients": 2, "clients_per_round": 2, "rounds": 2},
                        attack=[{"name": "dager"}])  # fmt: skip
    source = RunDirectory(tmp_path / "source")
    go(source, config)
    original = RunDirectory.append
    for lines in (1, 3, 5, 7):  # rows of the attacks before it is killed: in round 1, in round 2
        run = RunDirectory(tmp_path / f"killed after {lines}")
        run.create(config)

        def append(self: RunDirectory, name: str, row: Any, lines: int = lines) -> None:
            if name == "reconstructions.jsonl" and len(self.rows(name)) == lines:
                raise Kill
            original(self, name, row)

        with monkeypatch.context() as context:
            context.setattr(RunDirectory, "append", append)
            with pytest.raises(Kill):
                attack_captures(prepare(config), run, source, Silent())
        attack_captures(prepare(config), run, source, Silent())
        assert evidence(run) == evidence(source)


def test_files_are_copied_where_they_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(federation={"rounds": 1}, attack=[{"name": "dager", "clients": [0]}])
    source, run = RunDirectory(tmp_path / "source"), RunDirectory(tmp_path / "run")
    go(source, config)
    run.create(config)

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    with monkeypatch.context() as context:
        context.setattr(os, "link", refuse)
        attack_captures(prepare(config), run, source, Silent())
    assert evidence(run) == evidence(source)
    assert os.stat(run.vault / "pool.jsonl").st_nlink == 1


# A whole sweep


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    root = tmp_path_factory.mktemp("sweep") / "whole"
    return root, sweep(root, planned("seed=1,2", "attack.max_pairs=5,1000"))


def test_the_table_has_a_row_a_sample(whole: tuple[Path, pd.DataFrame]) -> None:
    root, table = whole
    pd.testing.assert_frame_equal(table, read_table(SweepDirectory(root)), check_dtype=False)
    assert len(table) == 4 * 2 * 2  # cells, clients of round 2, samples
    assert table["round"].unique().tolist() == [2]
    assert list(zip(table["seed"], table["attack.max_pairs"], strict=True))[::4] == [
        (1, 5), (1, 1000), (2, 5), (2, 1000),
    ]  # fmt: skip
    assert table.groupby("attack.max_pairs")["exact_match"].mean().to_dict() == {5: 0.0, 1000: 1.0}
    cut = table["attack.max_pairs"] == 5  # what was alive then is guessed, and wrong
    assert (table[cut]["precision"] == 0.0).all() and (table[~cut]["precision"] == 1.0).all()
    assert (table[cut]["guesses"] > 0).all() and (table[~cut]["guesses"] == 2).all()
    assert table["error"].isna().all() and table["attack_error"].isna().all()
    sweep_json = json.loads((root / "sweep.json").read_text())
    for cell in sweep_json["cells"]:
        rows = table[table["cell"] == cell["name"]]
        summary = json.loads((root / "cells" / cell["name"] / "summary.json").read_text())
        assert cell["status"] == "done"
        assert rows["utility"].unique().tolist() == [summary["utility"]["per_round"][1]]
        leak = summary["leakage"]["dager"]["rouge1"]["mean"]
        assert rows["rouge1"].mean() == pytest.approx(leak)
        sizes = rows.groupby("client")["bytes_up"].first()
        assert sizes.mean() == pytest.approx(summary["wire"]["bytes_up"], abs=0.5)
        update = root / "cells" / cell["name"] / "captures/round=2/client=0/update.safetensors"
        assert 0 < update.stat().st_size - sizes[0] < 20_000  # the header; float32 as it is


def test_swept_attacks_have_a_column_beside_who_read_the_row(tmp_path: Path) -> None:
    plan = planned('attack={name="dager",rounds=[1]},{name="dager",rounds=[1],max_pairs=9}')
    table = sweep(tmp_path / "sweep", plan)
    assert table["attack"].unique().tolist() == ["dager"]
    settings = ["dager(rounds=1)", "dager(rounds=1, max_pairs=9)"]
    assert table["attack_setting"].tolist() == [one for one in settings for _ in range(4)]


def test_cells_that_train_alike_trained_once(whole: tuple[Path, pd.DataFrame]) -> None:
    files = [path.stat() for path in whole[0].rglob("update.safetensors")]
    assert len(files) == 4 * 2 * 2  # in each cell's own directory, as in an ordinary run
    assert len({one.st_ino for one in files}) == len(files) / 2


def test_a_finished_sweep_runs_nothing(
    whole: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, table = whole
    monkeypatch.setattr("fedsim.lab.sweep.runner.run_cell", None)
    plan = planned("seed=1,2", "attack.max_pairs=5,1000")
    same(sweep(root, plan), table)
    same(sweep(root, SweepDirectory(root).plan()), table)  # as --resume reads it


@pytest.mark.parametrize("file", [3, 30, 55])
def test_a_sweep_killed_anywhere_gives_the_same_table(
    tmp_path: Path, whole: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch, file: int
) -> None:
    original, count = os.fsync, 0

    def fsync(number: int) -> None:
        nonlocal count
        count += 1
        if count == file:
            raise Kill
        original(number)

    plan = planned("seed=1,2", "attack.max_pairs=5,1000")
    with monkeypatch.context() as context:
        context.setattr("fedsim.files.os.fsync", fsync)
        with pytest.raises(Kill):
            sweep(tmp_path / "killed", plan)
    same(sweep(tmp_path / "killed", plan), whole[1])


def test_a_failed_cell_is_a_row_and_stops_nothing(tmp_path: Path) -> None:
    # A step of 1e38 takes the loss beyond float32: the client says so.
    plan = planned(
        "training.learning_rate=1e38,0.01",
        training={"algorithm": "fedavg", "batch_size": 2, "mini_batch_size": 1},
    )
    table = sweep(tmp_path / "sweep", plan)
    failed = table[table["error"].notna()]
    assert len(failed) == 1 and len(table) == 1 + 4
    assert "lower training.learning_rate" in failed["error"].iloc[0]
    assert failed["training.learning_rate"].iloc[0] == 1e38
    assert failed["attack"].isna().all()


def test_an_error_of_a_library_is_a_row_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MemoryError("no more\nof it")

    monkeypatch.setattr(fedsim.lab.sweep.cells, "run_experiment", broken)
    record = run_cell(tmp_path / "cell", experiment(), None, quick=True, display=Silent())
    assert record.status == "failed" and record.error == "MemoryError: no more of it"
    kept = (tmp_path / "cell/errors/cell.txt").read_text()
    assert "in broken" in kept and kept.endswith("MemoryError: no more\nof it\n")

    monkeypatch.undo()
    again = run_cell(tmp_path / "cell", experiment(), None, quick=True, display=Silent())
    assert again.status == "done" and again.error is None
    assert not (tmp_path / "cell/errors/cell.txt").exists()  # it went well this time


def test_scoring_counts_as_work(tmp_path: Path) -> None:
    record = run_cell(
        tmp_path / "cell", experiment(attack=[{"name": "dager"}], federation={"rounds": 1}), None,
        quick=False, display=Silent(),
    )  # fmt: skip
    summary = json.loads((tmp_path / "cell/summary.json").read_text())
    scoring = summary["scoring"]["seconds"]
    assert 0.0 < scoring < record.seconds
    assert record.working == pytest.approx(summary["seconds"] + scoring, abs=0.002)


def test_a_cell_without_attacks_is_a_row_with_its_utility(tmp_path: Path) -> None:
    table = sweep(tmp_path / "sweep", planned("seed=1,2", attack=[]))
    assert len(table) == 2 and table["utility_after"].notna().all()


def test_a_failed_cell_is_tried_again_and_one_that_trains_alike_takes_over(tmp_path: Path) -> None:
    plan = planned("attack.max_pairs=5,1000,2000")
    directory = SweepDirectory(tmp_path / "sweep")
    queue = Queue(plan.cells, directory, Ledger(directory, plan))
    first, second, third = plan.cells
    assert queue.take() == (first, None)
    assert queue.take() is None  # the others wait for its captures
    queue.ended(first, done=False)
    assert queue.take() == (second, None)
    queue.ended(second, done=True)
    assert queue.take() == (third, directory.cell(second.name))
    (directory.cell(first.name)).mkdir(parents=True)
    (directory.cell(first.name) / "cell.json").write_text('{"status": "failed", "error": "x"}')
    assert Queue(plan.cells, directory, Ledger(directory, plan)).take() == (first, None)


# What cannot be


def test_every_cell_is_checked_before_the_first_starts(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"256 positions, got 999 \(in the cell max_length=999-"):
        sweep(tmp_path / "sweep", planned("data.max_length=12,999"))
    with pytest.raises(BadInput, match=r"--jobs must be at least 1, got 0"):
        sweep(tmp_path / "sweep", planned("seed=1"), jobs=0)
    with pytest.raises(BadInput, match=r"'ray' already runs .* --jobs 1"):
        sweep(tmp_path / "sweep", planned("federation.engine=ray"), jobs=2)
    assert not (tmp_path / "sweep").exists()


def test_a_directory_that_is_not_this_sweeps(
    tmp_path: Path, whole: tuple[Path, pd.DataFrame]
) -> None:
    plan = planned("seed=1,2", "attack.max_pairs=5,1000")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"file' is not a directory"):
        SweepDirectory(tmp_path / "file").claim(plan)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    with pytest.raises(BadInput, match=r"run' holds a run; choose another"):
        SweepDirectory(tmp_path / "run").claim(plan)
    directory = SweepDirectory(whole[0])
    with pytest.raises(BadInput, match=r"another sweep \(seed=1,2 attack.max_pairs=5,1000\)"):
        directory.claim(planned("seed=1,2"))
    quick = make_plan(BASE, ["seed=1,2", "attack.max_pairs=5,1000"], quick=True)
    with pytest.raises(BadInput, match=r"holds this sweep without --quick"):
        directory.claim(quick)
    with held(directory.root), pytest.raises(BadInput, match=r"another process works in"):
        with held(whole[0]):
            pass


def test_another_sweep_that_began_during_the_checks_keeps_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = SweepDirectory(tmp_path / "sweep")

    def other(*_: object, **__: object) -> None:
        plan = planned("seed=7,8")
        with held(directory.root):
            Ledger(directory, plan)

    monkeypatch.setattr("fedsim.lab.sweep.runner.check_cells", other)
    assert main(["sweep", "seed=1,2", "--out", str(directory.root), "--json"]) == 2
    assert "holds another sweep (seed=7,8)" in capsys.readouterr().err
    assert directory.read().words == ["seed=7,8"]


def test_a_directory_that_holds_no_sweep(tmp_path: Path) -> None:
    directory = SweepDirectory(tmp_path)
    with pytest.raises(BadInput, match=r"holds no sweep \(no sweep.json\)"):
        directory.plan()
    with pytest.raises(BadInput, match=r"has no table yet"):
        read_table(directory)
    (tmp_path / "sweep.json").write_text('{"schema": 9}')
    with pytest.raises(BadInput, match=r"sweep.json: schema: wanted 1, got '9'"):
        directory.plan()
    for broken, line in (
        ("[]", "all of it: wanted"),
        ('{"schema": 1}', "name: wanted|name: Field required"),
        ("{", "not valid JSON"),
    ):
        (tmp_path / "sweep.json").write_text(broken)
        with pytest.raises(BadInput, match=rf"sweep.json.*({line})"):
            directory.plan()
        assert main(["sweep", "seed=1,2", "--out", str(tmp_path)]) == 2


def test_an_interrupt_that_got_lost_ends_the_sweep_after_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, handler = [], signal.getsignal(signal.SIGINT)

    def lost(root: Path, *_: Any, **__: Any) -> CellEnd:
        ran.append(root.name)
        with contextlib.suppress(KeyboardInterrupt):  # as Python does in a finaliser
            signal.raise_signal(signal.SIGINT)
        return CellEnd(status="failed", error="interrupted")

    monkeypatch.setattr("fedsim.lab.sweep.runner.run_cell", lost)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "sweep", planned("seed=1,2,3"))
    assert len(ran) == 1
    assert signal.getsignal(signal.SIGINT) is handler
