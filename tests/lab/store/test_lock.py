import contextlib
import fcntl
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from fedsim.errors import BadInput, RunFailed
from fedsim.lab.cli import main
from fedsim.lab.store import layout
from fedsim.lab.store.lock import held
from fedsim.lab.store.run import RunDirectory
from tests.lab.conftest import experiment


def hold(root: Path, said: Connection) -> None:
    with held(root):
        said.send("held")
        time.sleep(600)


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
    fork = multiprocessing.get_context("fork")
    heard, said = fork.Pipe(duplex=False)
    holder = fork.Process(target=hold, args=(tmp_path, said), daemon=True)
    holder.start()
    assert heard.poll(60) and heard.recv() == "held"
    with pytest.raises(BadInput, match="another process works in"), held(tmp_path):
        pass
    holder.kill()
    holder.join()
    with held(tmp_path):
        pass


@pytest.mark.parametrize("whole", [True, False])
def test_a_lock_touches_nothing_and_nothing_takes_it_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        no_locks_on(monkeypatch, os.path.isdir)
    victim, root = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    root.mkdir()
    (root / layout.LOCK).symlink_to(victim)
    with contextlib.suppress(RunFailed), held(root):  # through a link nothing is opened
        pass
    assert victim.read_text() == "precious"
    (root / layout.LOCK).unlink()
    os.mkfifo(root / layout.LOCK)
    with held(root):  # and a pipe keeps nobody waiting
        if whole:
            (root / layout.LOCK).unlink()
        with pytest.raises(BadInput, match="another process works in"), held(root):
            pass


def no_locks_on(monkeypatch: pytest.MonkeyPatch, such: Callable[[str], bool]) -> None:
    original = fcntl.flock

    def flock(lock: int, how: int) -> None:
        if such(os.readlink(f"/proc/self/fd/{lock}")):
            raise OSError("Function not implemented")
        original(lock, how)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_drafts_go_only_from_directories_that_are_ours(tmp_path: Path) -> None:
    within = tmp_path / "work" / ".fedsim-model.7.tmp"
    within.mkdir(parents=True)
    with held(tmp_path):
        assert within.exists()  # --out may have been somebody's home
    (tmp_path / layout.CONFIG).write_text("")
    with held(tmp_path):
        assert not within.exists()


def test_where_there_can_be_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(BadInput, match=r"--out: '.*file' is not a directory"), held(file):
        pass

    no_locks_on(monkeypatch, lambda path: True)
    with pytest.raises(RunFailed, match=r"could not lock .*: Function not"), held(tmp_path):
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
    assert sorted(path.name for path in run.root.iterdir()) == before
    assert not list(Path(new).iterdir())
