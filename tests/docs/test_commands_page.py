"""The page of the commands tells of every file of a run, and of every word of a command."""

import re

import pytest

from fedsim.lab.cli import main
from fedsim.lab.commands import COMMANDS, base
from fedsim.lab.store import layout
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
ELSEWHERE = {"RUNS", "ATTACK"}  # around a run, of `fedsim attack`


def test_every_name_of_a_run_is_told() -> None:
    names = [name for name in vars(layout) if name.isupper()]
    own = names[names.index("RUNS") : names.index("SWEEP")]
    wanted = {str(getattr(layout, name)) for name in own if name not in ELSEWHERE}
    table = PAGE.partition("The run's directory")[2].partition("A run that was killed")[0]
    told = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)))
    assert len(wanted) > 10
    assert {name.rstrip("/") for name in told} == wanted | {"audit", "memory"}


def test_a_name_of_a_kind_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["list", "--help"])
    assert "[name]" in capsys.readouterr().out
    assert "|data] [NAME] [--json]`" in PAGE.replace("\\|", "|")


def test_every_exit_code_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    codes = {base.FINE, base.LEAK, base.BAD_INPUT, base.INCONCLUSIVE, base.FAILED}
    page = PAGE.partition("**Exit codes.**")[2].partition("\n\n")[0]
    for told in (page, capsys.readouterr().out.partition("exit codes:")[2]):
        for code in codes | {base.INTERRUPTED}:
            assert re.search(rf"\b{code} [a-z]", " ".join(told.split()))


def test_every_command_has_a_row() -> None:
    rows = re.findall(r"^\| `fedsim ([a-z-]+)", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)
