import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.errors import BadInput, RunFailed
from fedsim.lab.cli import main
from fedsim.lab.store import layout
from fedsim.lab.store.lock import held
from fedsim.lab.store.run import RunDirectory
from tests.lab.conftest import experiment

HOLDER = """
import fcntl, sys, time

file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def test_one_works_in_a_directory_at_a_time(tmp_path: Path) -> None:
    root = tmp_path / "new" / "run"
    with held(root):
        with pytest.raises(BadInput, match=r"--out: another process works in '.*new/run'$"):
            with held(root):
                pass
        with held(root / "attack"):  # another directory, though within
            pass
    with held(root):
        pass


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / layout.LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="another process works in"):
            with held(tmp_path):
                pass
        holder.send_signal(signal.SIGKILL)
    with held(tmp_path):  # the file is there still
        assert (tmp_path / layout.LOCK).exists()


def test_drafts_of_killed_ones_go_when_the_next_one_comes(tmp_path: Path) -> None:
    draft = tmp_path / "vault" / "round=1" / ".client=0.jsonl.123.tmp"
    draft.parent.mkdir(parents=True)
    draft.write_text("half")
    with held(tmp_path):
        assert not draft.exists()


def test_where_there_can_be_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(BadInput, match=r"--out: '.*file' is not a directory"), held(file):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunFailed, match=r"could not lock .*\.lock: Function not"), held(tmp_path):
        pass
    monkeypatch.setattr("fedsim.lab.store.lock.open", refuse, raising=False)
    with pytest.raises(RunFailed, match=r"could not write .*\.lock: Function not"), held(tmp_path):
        pass


def test_whoever_comes_second_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create(experiment(federation={"rounds": 1}, data={"evaluate": 0}))
    before = sorted(path.name for path in run.root.iterdir())
    new = str(tmp_path / "new")
    small = ["federation.rounds=1", "federation.clients=2", "data.evaluate=0", "attack=[]"]
    for root, words in ((run.root, ["run", "--resume"]), (tmp_path / "new", ["run", *small])):
        with held(root):
            assert main([*words, "--out", str(root)]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"fedsim: --out: another process works in {str(root)!r}"
        )
    assert sorted(path.name for path in run.root.iterdir()) == sorted([*before, ".lock"])
    assert [path.name for path in Path(new).iterdir()] == [".lock"]
