import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from typing_extensions import override

from attacks import Attack
from fedsim.lab.display import Silent
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.faults import keep_traceback
from fedsim.lab.run.prepare import prepare
from fedsim.lab.run.replay import prepare_replay, run_replay
from fedsim.lab.store.run import RunDirectory
from fedsim.messages import Observation, Reconstruction
from tests.lab.conftest import experiment
from tests.lab.in_process import InThisProcess


@dataclass(frozen=True, kw_only=True)
class Careless(Attack):
    """Raises in what it calls, where ``broken``."""

    broken: bool = True
    families: ClassVar = ("gpt2",)

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        if self.broken:
            torch.ones(2) @ torch.ones(3)
        return Reconstruction(sequences=())


LINE = next(
    number
    for number, line in enumerate(Path(__file__).read_text().splitlines(), start=1)
    if "torch.ones(2) @ torch.ones(3)" in line
)


@dataclass
class Heard(Silent):
    """Keeps the lines that stay."""

    redact = False
    lines: list[str] = field(default_factory=list)

    @override
    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(autouse=True)
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"careless": Careless}
    monkeypatch.setattr("fedsim.lab.run.planned.attack_table", lambda: known)
    monkeypatch.setattr("fedsim.lab.run.attacking.attack_worker", lambda: InThisProcess(known))


def a_run(root: Path, **parameters: object) -> tuple[RunDirectory, list[str]]:
    config = experiment(attack=[{"name": "careless", **parameters}], federation={"rounds": 2})
    run, heard = RunDirectory(root), Heard()
    run.create(config)
    run_experiment(prepare(config), run, heard)
    return run, heard.lines


@pytest.mark.slow
def test_a_plugins_traceback_is_kept_and_its_last_line_told_once(tmp_path: Path) -> None:
    run, lines = a_run(tmp_path / "run")
    rows = run.rows("reconstructions.jsonl")
    assert len(rows) == 12  # 3 clients, 2 rounds, a control each: training went on
    kept = sorted(path.relative_to(run.errors) for path in run.errors.rglob("*.txt"))
    assert kept == sorted(
        Path(f"round={row['round']}/client={row['client']}/careless-{row['role']}.txt")
        for row in rows
    )
    told = [line for line in lines if "careless could not run on" in line]
    assert len(told) == 1
    where = f"(test_faults.py:{LINE} in _run; the whole traceback: {run.errors / 'round=1'}"
    assert told[0].startswith("round 1: ") and "careless raised RuntimeError: " in told[0]
    assert where in told[0]
    whole = Path(told[0].partition("the whole traceback: ")[2].removesuffix(")")).read_text()
    assert whole.startswith("Traceback (most recent call last):\n")
    assert f'test_faults.py", line {LINE}, in _run\n' in whole
    assert whole.splitlines()[-1] in {row["error"].partition(" raised ")[2] for row in rows}


@dataclass(frozen=True, kw_only=True)
class Leaver(Attack):
    """Ends the program."""

    families: ClassVar = ("gpt2",)

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        sys.exit(0)


@pytest.mark.slow
def test_an_attack_that_ends_the_program_is_one_that_could_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"careless": Leaver}
    monkeypatch.setattr("fedsim.lab.run.planned.attack_table", lambda: known)
    monkeypatch.setattr("fedsim.lab.run.attacking.attack_worker", lambda: InThisProcess(known))
    run, lines = a_run(tmp_path / "run")
    errors = {row["error"] for row in run.rows("reconstructions.jsonl")}
    assert errors == {"careless raised SystemExit: 0"}
    assert run.summary().verdicts["careless"].verdict == "inconclusive"
    assert len([line for line in lines if "careless could not run on" in line]) == 1


@pytest.mark.slow
def test_what_a_replay_kept_goes_with_its_results(tmp_path: Path) -> None:
    run, _ = a_run(tmp_path / "run", broken=False)
    assert not run.errors.exists()  # nothing was raised
    out = RunDirectory(tmp_path / "again")
    for broken in (True, False):
        words = [f"broken={str(broken).lower()}"]
        replay = prepare_replay(run.root, "careless", words, out.root)
        run_replay(replay, Silent())
        assert out.errors.exists() is broken


@pytest.mark.slow
def test_a_round_that_runs_again_forgets_its_tracebacks(tmp_path: Path) -> None:
    run, _ = a_run(tmp_path / "run")
    run.forget_after(1)
    assert [path.name for path in run.errors.iterdir()] == ["round=1"]


def test_a_name_and_a_message_that_no_file_holds(tmp_path: Path) -> None:
    path = keep_traceback(tmp_path, "../a/b c", "KeyError: '\ud800'\n")
    assert path == tmp_path / ".._a_b_c.txt"
    assert path.read_text(encoding="utf-8") == "KeyError: '\\ud800'\n"
    path = keep_traceback(tmp_path, "b", "ValueError: \x1b[2J\u202e\n")
    assert path.read_text(encoding="utf-8") == "ValueError: \\x1b[2J\\u202e\n"
