"""The gate by its command: 0 passed, 1 closed, 2 bad policy or input, 3 inconclusive."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from fedsim.files import read_json, write_json
from fedsim.lab.cli import main
from tests.e2e.conftest import Fedsim
from tests.lab.synthetic import cell, sweep_of, synthetic_run

STRICT = '[leakage.dager]\nbag_f1 = { max = 0.05 }\n[verdict]\nallow = ["no-leak"]\n'
LOOSE = "[utility]\naccuracy = { min = 0.7 }\n[verdict]\nallow = ['leak', 'no-leak']\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run(tmp_path_factory.mktemp("gate") / "run", rounds=1).root


def test_the_four_exit_codes_by_the_command(run: Path, fedsim: Fedsim, tmp_path: Path) -> None:
    (tmp_path / "loose.toml").write_text(LOOSE)
    (tmp_path / "strict.toml").write_text(STRICT)
    (tmp_path / "slip.toml").write_text(LOOSE.replace("accuracy", "acuracy"))
    (tmp_path / "unknown.toml").write_text(LOOSE + "[guarantee]\ndelta = { max = 1e-5 }\n")
    codes = {}
    for name in ("loose", "strict", "slip", "unknown"):
        done = fedsim("gate", str(run), "--policy", f"{name}.toml")
        codes[name] = done.returncode
        assert "Traceback" not in done.stderr
        if name == "slip":
            assert done.stdout == ""
            assert "did you mean 'utility.accuracy'" in done.stderr
        else:
            assert done.stderr == ""
    assert codes == {"loose": 0, "strict": 1, "slip": 2, "unknown": 3}


def test_its_files(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, junit, markdown = (tmp_path / name for name in ("p.toml", "o/gate.xml", "o/gate.md"))
    policy.write_text(STRICT)
    words = ["gate", str(run), "--policy", str(policy), "--json"]
    assert main([*words, "--junit", str(junit), "--markdown", str(markdown)]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["outcome"] == "fail"
    assert [one["key"] for one in said["checks"]] == [
        "leakage.dager.bag_f1",
        "verdict.dager",
        "verdict",
    ]
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "3")
    assert "| fail | leakage.dager.bag\\_f1 |" in markdown.read_text()


def test_an_attack_that_nothing_is_about_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text("[leakage.lamp]\nbag_f1 = { max = 0.5 }\n")
    assert main(["gate", str(run), "--policy", str(policy)]) == 3
    assert "nothing in the policy is about dager" in capsys.readouterr().err


def test_a_sweep_passes_only_if_every_cell_does(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text(LOOSE)
    sweep = tmp_path / "sweep"
    cells = []
    for name in ("a=1", "a=2"):
        config = synthetic_run(sweep / "cells" / name, rounds=1, batch=1).config()
        cells.append(cell(name, {"a": 1}, config.as_toml()))
    tree = sweep_of({"a": [1, 2]}, cells)
    gate = ["gate", str(sweep), "--policy", str(policy)]
    write_json(sweep / "sweep.json", tree)
    assert main(gate) == 0
    path = sweep / "cells" / "a=2" / "summary.json"
    summary = read_json(path)
    summary["utility"]["after"] = 0.1
    write_json(path, summary)
    assert main(gate) == 1
    assert "a=2: utility.accuracy: accuracy is 0.1: it is below the 0.7" in capsys.readouterr().out
    cells[1] |= {"status": "failed", "error": "RunFailed: diverged", "quotes": False}
    write_json(sweep / "sweep.json", tree)
    assert main(gate) == 3
    assert "a=2: run: This run has no results: RunFailed: diverged." in capsys.readouterr().out
    cells[1] |= {"name": "../../elsewhere"}
    write_json(sweep / "sweep.json", tree)
    assert main(gate) == 2
    assert "sweep.json: cells.1.name: wanted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("summary.json", "{", "is not valid JSON"),
        ("summary.json", '{"schema": 1, "name": 3}', "summary.json: name: wanted a valid string"),
        ("summary.json", None, "not finished"),
    ],
)
def test_bad_input(
    name: str, text: str | None, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = synthetic_run(tmp_path / "run", rounds=1, batch=1).root
    (tmp_path / "p.toml").write_text(LOOSE)
    if text is None:
        (root / name).unlink()
    else:
        (root / name).write_text(text)
    assert main(["gate", str(root), "--policy", str(tmp_path / "p.toml")]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


def test_a_policy_that_is_not_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", str(run), "--policy", "nowhere.toml"]) == 2
    assert "nowhere.toml" in capsys.readouterr().err
