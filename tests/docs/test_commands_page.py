"""The page of the commands tells of every file of a run, and of every word of a command."""

import re

import pytest

from fedsim.lab.cli import main
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
