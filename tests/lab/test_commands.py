"""What the commands share."""

import gc
import re
import sys

import pytest

from fedsim.errors import BadInput, RunFailed
from fedsim.lab.cli import main
from fedsim.lab.commands.base import importing


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
    assert main(["list"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert all(one.isprintable() for one in lines)
    assert re.fullmatch(line, lines[-1])
