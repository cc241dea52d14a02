"""What the commands share."""

import gc
import re
import sys
from pathlib import Path

import pytest

from fedsim.errors import BadInput, RunFailed
from fedsim.lab.cli import main
from fedsim.lab.commands.base import importing, is_path


def test_nobody_looks_for_garbage_among_what_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    try:
        with pytest.raises(ImportError), importing():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_where_all_is_imported_nothing_changes() -> None:
    frozen = gc.get_freeze_count()
    with importing():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


LONG = "topk" * 100  # no file has such a name


def test_a_first_word_is_a_config_where_it_can_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=1.toml").touch()
    assert is_path("a.toml") and is_path("a=1.toml") and is_path("runs/a=1.toml")
    assert not is_path("a=2.toml") and not is_path(f'defense=none,{{name="{LONG}"}}')


@pytest.mark.parametrize(
    "words",
    [
        ["run", LONG], ["sweep", f"defense={LONG}", "--out", "o"],
        ["attack", LONG, "--attack", "dager"],
        ["run", f"defense={LONG}", "--out", "o"], ["report", LONG], ["compare", LONG, LONG],
        ["gate", LONG, "--policy", LONG],
    ],
    ids=lambda words: f"{words[0]} {words[-1]}"[:20],
)  # fmt: skip
def test_a_word_that_no_file_can_be_called_is_bad_input(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert [line[:7] for line in capsys.readouterr().err.splitlines()][-1] == "fedsim:"
    assert not list(tmp_path.iterdir())


class Odd(BaseException):
    """No Exception."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SystemExit(0), 4, r"fedsim: .*test_commands.py:\d+ called exit\(0\)"),
        (SystemExit("\x1b[2Jbye"), 4, r"fedsim: .*called exit\('\\x1b\[2Jbye'\)"),
        (PermissionError(13, "Permission denied", "a/b"), 4, r"fedsim: .*Permission denied: 'a/b'"),
        (RunFailed("no \x1b[31m disk"), 4, r"fedsim: no \\x1b\[31m disk"),
        (BadInput("no\n\u202e model"), 2, r"fedsim: no \\u202e model"),
        (Odd("\x9b31m"), 4, "fedsim: this is a bug; please report the lines above"),
        (ValueError("\x1b[2J"), 4, "fedsim: this is a bug; please report the lines above"),
        (KeyboardInterrupt(), 130, "fedsim: interrupted"),
    ],
)
def test_whatever_ends_a_command_has_a_code_of_its_own_and_drives_no_terminal(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(_: object) -> int:
        raise error

    monkeypatch.setattr("fedsim.lab.commands.list._list", broken)
    assert main(["list", "--no-redact"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert all(one.isprintable() for one in lines)
    assert re.fullmatch(line, lines[-1])


@pytest.mark.parametrize("command", ["run", "sweep", "audit-dp"])
def test_a_config_that_is_not_there_is_said_before_anything_is_imported(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = command.replace("-", "_")
    monkeypatch.setattr(f"fedsim.lab.commands.{name}.importing", None)
    assert main([command, "nowhere.toml", "seed=1,2"]) == 2
    assert capsys.readouterr().err == "fedsim: config 'nowhere.toml' does not exist\n"
