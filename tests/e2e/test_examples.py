"""Adapted real projects, each tapped by the documented line: what is read of them, and what not.

The oracle is what each app's own source says that its clients train on; how much of it must be read
follows from how they train: plain steps of SGD are gradients, steps of Adam and noise are not.
"""

import json
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.conftest import Fedsim

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of Flower, Opacus, torch


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Runs an example in this process; returns the words of the two commands that it prints."""

    def run(name: str, *words: str) -> list[list[str]]:
        app = EXAMPLES / name / "app.py"
        monkeypatch.setattr(sys, "argv", [str(app), str(tmp_path / "work"), *words])
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.delitem(sys.modules, "common", raising=False)  # benchmarks have one, too
        with torch.random.fork_rng():
            runpy.run_path(str(app), run_name="__main__")
        monkeypatch.delitem(sys.modules, "common")
        said = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()[-2:]]
        assert [command[0] for command in said] == ["inspect", "attack"]
        return said

    return run


def summary(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "o" / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "rounds", "exact"),
    [
        ("quickstart_huggingface", 1, "exact_match"),
        ("flowertune", 2, "exact_match_but_last"),
        ("opacus_dp", 1, "exact_match"),
        ("numpy_client", 2, "exact_match"),
    ],
)
def test_plain_steps_are_read(
    project: Any, fedsim: Fedsim, tmp_path: Path, name: str, rounds: int, exact: str
) -> None:
    inspect, attack = project(name, "--plain")
    seen = fedsim(*inspect).stdout
    assert f"{rounds} round" in seen and "of 3 clients (0, 1, 2)" in seen
    assert "What hides" not in seen
    done = fedsim(*attack, "--out", "o")
    assert done.returncode == 0, done.stderr
    told = summary(tmp_path)
    assert len(told["attacks"]) == 3 * rounds
    assert told["leakage"]["dager"][exact]["mean"] == 1.0
    assert told["verdicts"]["dager"]["verdict"] == "leak"


@pytest.mark.parametrize(
    ("name", "hides"),
    [
        ("quickstart_huggingface", "as Adam's steps are"),
        ("flowertune", "as Adam's steps are"),
        ("opacus_dp", "as normal noise is"),
        ("numpy_client", "as Adam's steps are"),
    ],
)
def test_as_such_projects_train_nothing_is_read_and_it_is_said_why(
    project: Any, fedsim: Fedsim, tmp_path: Path, name: str, hides: str
) -> None:
    inspect, attack = project(name)
    said = [line for line in fedsim(*inspect).stdout.splitlines() if "What hides" in line]
    assert len(said) == 1 and hides in said[0]
    done = fedsim(*attack, "--out", "o")
    assert done.returncode == 3, done.stderr
    told = summary(tmp_path)
    assert told["leakage"]["dager"]["token_accuracy"]["mean"] == 0.0
    judged = told["verdicts"]["dager"]
    assert judged["verdict"] == "inconclusive" and hides in judged["reason"]


def test_beneath_secagg_plus_only_the_sum_is_in_clear(project: Any, fedsim: Fedsim) -> None:
    inspect, attack = project("secagg_plus")
    assert "3 of 3 are masked by secure aggregation" in fedsim(*inspect).stdout
    done = fedsim(*attack)
    assert done.returncode == 2
    assert "masked updates alone" in done.stderr
