"""A sweep grows by values of its keys; what it has stays as it is."""

from pathlib import Path
from typing import Any

import pytest

from fedsim.errors import BadInput
from fedsim.files import write_json
from fedsim.lab.cli import main
from fedsim.lab.store.sweep import CellEnd, write_end
from fedsim.lab.sweep.directory import Ledger, SweepDirectory
from fedsim.lab.sweep.grid import SweepPlan, axes, cells, make_plan
from fedsim.lab.sweep.growing import grown
from fedsim.lab.sweep.runner import Queue

BASE: dict[str, Any] = {
    "model": {"name": "builtin:gpt2-tiny"},
    "data": {"name": "builtin:clinic", "evaluate": 4, "max_length": 12},
    "federation": {"clients": 2, "rounds": 1},
    "attack": [{"name": "dager"}],
}


def finished(root: Path, *words: str, quick: bool = False) -> SweepDirectory:
    """Return a sweep all of whose cells are done, without any training."""
    directory, plan = SweepDirectory(root), make_plan(BASE, words, quick=quick)
    for cell in plan.cells:
        (directory.cell(cell.name) / "captures").mkdir(parents=True)
        write_end(directory.cell(cell.name), CellEnd(status="done"))
    Ledger(directory, plan)
    return directory


def left(directory: SweepDirectory, plan: SweepPlan) -> list[dict[str, Any]]:
    """Return the settings of the cells that a grown sweep has still to run."""
    directory.claim(plan)
    return [
        dict(cell.settings) for cell in Queue(plan.cells, directory, Ledger(directory, plan)).left
    ]


def test_more_values_are_more_cells_and_no_other_runs_again(tmp_path: Path) -> None:
    directory = finished(tmp_path, "training.batch_size=1,2", "seed=1,2")
    before = {cell.name for cell in directory.read().cells}
    plan = grown(directory, ["training.batch_size=2,4"], quick=False)
    assert left(directory, plan) == [
        {"training.batch_size": 4, "seed": 1}, {"training.batch_size": 4, "seed": 2},
    ]  # fmt: skip
    after = directory.read()
    assert before < {cell.name for cell in after.cells} and len(after.cells) == 6
    assert after.axes == {"training.batch_size": [1, 2, 4], "seed": [1, 2]}
    same = make_plan(BASE, ["training.batch_size=1,2,4", "seed=1,2"], quick=False)
    assert [cell.name for cell in same.cells] == [cell.name for cell in after.cells]


def test_a_key_that_was_not_swept_gets_the_value_that_it_had(tmp_path: Path) -> None:
    directory = finished(tmp_path, "training.batch_size=1,2", "training.learning_rate=0.5")
    before = {cell.name: cell.config for cell in directory.read().cells}
    words = ["seed=7", "defense=topk,none", "training.learning_rate=0.25"]
    plan = grown(directory, words, quick=False)
    assert {key: len(values) for key, values in plan.axes.items()} == {
        "training.batch_size": 2, "training.learning_rate": 2, "seed": 2, "defense": 2,
    }  # fmt: skip
    todo = left(directory, plan)
    assert len(todo) == 16 - 2 and len(plan.cells) == 16
    after = {cell.name: cell for cell in directory.read().cells}
    for name, config in before.items():  # under the name that it has, with all settings
        assert after[name].config == config and after[name].status == "done"
        assert after[name].settings["seed"] == 1
        assert after[name].settings["training.learning_rate"] == 0.5


def test_its_words_say_all_of_it(tmp_path: Path) -> None:
    directory = finished(tmp_path, "attack=dager,bag", "training.dropout=true,false")
    added = 'attack={name="dager", rounds=[1], memory=0.5},[{name="bag"}, {name="dager"}]'
    plan = grown(directory, [added, 'data.label_column="a, b"'], quick=False)
    again = cells(BASE, axes(plan.words))
    assert [cell.config for cell in again] == [cell.config for cell in plan.cells]
    assert len(again) == 4 * 2 * 2


def test_where_nothing_is_new_it_is_the_sweep_that_is_there(tmp_path: Path) -> None:
    directory = finished(tmp_path, "seed=1,2", quick=True)
    plan = grown(directory, ["seed=2"], quick=False)
    assert left(directory, plan) == [] and plan.words == ["seed=1,2"] and plan.quick


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("sede=3", r"unknown key 'sede'; did you mean 'seed'"),
        ("attack.max_pairs=5", r"attack.max_pairs: this sweep has the keys seed; .* value of its"),
        ("seed=", r"seed: wanted values between commas"),
        ("training.batch_size=-3", r"training.batch_size: .*in the cell seed=1"),
    ],
)
def test_words_that_no_sweep_grows_by(words: str, line: str, tmp_path: Path) -> None:
    directory = finished(tmp_path, "seed=1,2")
    whole = (tmp_path / "sweep.json").read_bytes()
    with pytest.raises(BadInput, match=line):
        grown(directory, [words], quick=False)
    assert (tmp_path / "sweep.json").read_bytes() == whole


def test_cells_that_would_be_others_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    directory = finished(tmp_path, "seed=1,2")
    sweep = directory.read().as_dict()
    sweep["base"]["data"] = BASE["data"] | {"max_length": 13}  # as a path from elsewhere would be
    write_json(tmp_path / "sweep.json", sweep)
    with pytest.raises(BadInput, match=r"the cell seed=1-\w+ would be another now"):
        grown(directory, ["seed=3"], quick=False)


def test_the_controls_are_as_they_were(tmp_path: Path) -> None:
    directory = finished(tmp_path, "seed=1,2")
    with pytest.raises(BadInput, match="holds this sweep without --quick"):
        directory.claim(grown(directory, ["seed=3"], quick=True))


def test_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fedsim.lab.commands.base.processes", lambda: None)
    monkeypatch.setattr("fedsim.lab.sweep.runner.check_cells", lambda *_, **__: None)
    monkeypatch.setattr("fedsim.lab.sweep.runner.run_cells", lambda *_, **__: None)
    monkeypatch.setattr("fedsim.lab.sweep.table.write_table", lambda *_: None)
    monkeypatch.setattr("fedsim.lab.commands.sweep._show", lambda *_: 0)
    directory = finished(tmp_path / "s", "seed=1,2")
    out = ["--out", str(directory.root)]
    assert main(["sweep", "seed=3", *out]) == 0
    assert "3 cells, 2 done before" in capsys.readouterr().err
    sweep = directory.read()
    assert sweep.words == ["seed=1,2,3"]
    assert sweep.commands == [f"fedsim sweep seed=3 --out {directory.root}"]
    assert main(["sweep", *out, "--resume"]) == 0
    assert directory.read() == sweep  # nothing is forgotten
    config = tmp_path / "c.toml"
    config.write_text('[model]\nname = "builtin:gpt2-tiny"\n[data]\nname = "builtin:clinic"\n')
    assert main(["sweep", str(config), "seed=3", *out]) == 2  # another sweep, by its config
    assert "holds another sweep (seed=1,2,3)" in capsys.readouterr().err


def test_captures_that_were_cleaned_away_are_no_source(tmp_path: Path) -> None:
    directory = finished(tmp_path, "attack.max_pairs=5,6")
    for cell in directory.read().cells:
        (directory.cell(cell.name) / "captures").rmdir()
    plan = grown(directory, ["attack.max_pairs=7"], quick=False)
    queue = Queue(plan.cells, directory, Ledger(directory, plan))
    assert queue.take() == (plan.cells[2], None)  # it trains
