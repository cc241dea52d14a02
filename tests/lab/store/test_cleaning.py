"""What may go from finished runs, and that nothing else does."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedsim.lab.cli import main
from fedsim.lab.report.sections import cost_section
from fedsim.lab.store.cleaning import cleaning
from fedsim.lab.store.lock import held
from fedsim.lab.store.run import RunDirectory
from tests.lab.synthetic import cell, sweep_of, synthetic_run

MIB = 2**20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run(tmp_path_factory.mktemp("made") / "run", rounds=1, batch=1).root


def fill(root: Path) -> RunDirectory:
    """Put captures, checkpoints and a client's memory into a run: 3, 2 and 1 MiB."""
    run = RunDirectory(root)
    for folder, size in (
        (run.captures / "round=1" / "client=0", 3), (run.checkpoints, 2), (root / "memory", 1),
    ):  # fmt: skip
        folder.mkdir(parents=True)
        (folder / "round=1.safetensors").write_bytes(os.urandom(size * MIB))
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunDirectory:
    shutil.copytree(made, tmp_path / "run")
    return fill(tmp_path / "run")


def said(*words: object, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert main(["clean", *map(str, words), "--json"]) == code
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_without_yes_it_says_what_could_go(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    there = files(run.root)
    assert main(["clean", str(run.root)]) == 0
    lines = capsys.readouterr().out
    assert "captures: 3.1 MB; without them nothing is left for `fedsim attack`" in lines
    assert "checkpoints: 3.1 MB; without them `fedsim run --resume` trains again" in lines
    assert "What stays possible: report, gate and compare" in lines
    assert f"to free 6.3 MB: fedsim clean {run.root} --yes" in lines
    assert files(run.root) == there


def test_with_yes_it_goes_and_results_stay(
    run: RunDirectory, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(run.root, "--yes", capsys=capsys)
    assert told["removed"] and told["frees"] == {"captures": 3 * MIB, "checkpoints": 3 * MIB}
    assert files(run.root) == files(made)
    assert not cost_section(run, run.summary()).empty  # all that a page asks the captures for
    assert main(["compare", *[str(run.root)] * 2]) == 0
    capsys.readouterr()
    assert main(["attack", str(run.root), "--attack", "dager"]) == 2
    assert "holds no capture" in capsys.readouterr().err
    assert main(["clean", str(run.root)]) == 0
    assert "There is nothing to remove." in capsys.readouterr().out


def test_what_is_to_stay_stays(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(run.root, "--keep", "captures", "--yes", capsys=capsys)
    assert told["frees"] == {"checkpoints": 3 * MIB}
    assert files(run.captures) and not run.checkpoints.exists()


def test_a_run_that_is_not_finished_keeps_all(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.root / "summary.json").unlink()
    there = files(run.root)
    told = said(run.root, "--yes", capsys=capsys)
    assert told["unfinished"] == [str(run.root)] and not any(told["frees"].values())
    assert files(run.root) == there


def test_of_a_sweep_all_finished_cells_and_a_file_of_two_names_counts_once(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "sweep"
    (root / "cells").mkdir(parents=True)
    for name in ("a=1", "a=2"):  # as cells that train alike have their captures
        shutil.copytree(run.root, root / "cells" / name, copy_function=os.link)
    run.root.rename(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    config = RunDirectory(root / "cells" / "a=1").config().as_toml()
    rows = [cell(name, {"a": place}, config) for place, name in enumerate(("a=1", "a=2"))]
    (root / "sweep.json").write_text(json.dumps(sweep_of({"a": [0, 1]}, rows)))
    with cleaning(root / "cells" / "a=1") as one:
        assert one.bytes == {"captures": 0, "checkpoints": 0}  # the other cell has them, too
    told = said(root, "--yes", capsys=capsys)
    assert told["finished"] == 2
    assert told["frees"] == {"captures": 3 * MIB, "checkpoints": 3 * MIB}
    assert not list(root.rglob("*.safetensors")) and len(list(root.rglob("summary.json"))) == 2


def test_where_somebody_works_nothing_goes(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = files(run.root)
    attack = run.root / "attack-dager-1"  # which reads the captures
    attack.mkdir()
    for place in (run.root, attack):
        with held(place):
            assert main(["clean", str(run.root), "--yes"]) == 2
            line = capsys.readouterr().err
            assert line == f"fedsim: clean: another process works in {str(place)!r}\n"
    sweep = tmp_path / "sweep"
    (sweep / "cells").mkdir(parents=True)
    (sweep / "sweep.json").write_text("{}")
    inside = run.root.rename(sweep / "cells" / "a=1")
    with held(sweep):
        assert main(["clean", str(inside), "--yes"]) == 2
    assert "another process works in" in capsys.readouterr().err
    assert files(inside) == there


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_what_is_no_run_is_left_alone(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    assert main(["clean", str(tmp_path / name), "--yes"]) == 2
    assert "holds neither a run nor a sweep of fedsim's" in capsys.readouterr().err
    assert files(tmp_path) == {"file"}
