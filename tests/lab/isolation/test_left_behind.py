"""What an attack leaves behind does not reach the next one, nor outlive it."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedsim.lab.isolation import processes
from fedsim.lab.isolation.worker import AttackWorker, Limits
from tests.lab.isolation.conftest import AMPLE, Tasks, running, wait_for

LIMITED = Limits(seconds=300.0, memory=1.0)
linux = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")


@pytest.fixture(autouse=True)
def fresh(worker: AttackWorker) -> None:
    worker.close()  # tasks are numbered from 1 in each process


@pytest.mark.slow
@pytest.mark.parametrize("how", ["twice", "late", "two"])
def test_an_answer_is_to_the_task_that_was_given(
    worker: AttackWorker, task: Tasks, how: str
) -> None:
    first = worker.attempt(task(how=how), AMPLE)
    assert first.sequences == ([[5]] if how == "twice" else [[1, 2]])  # what it said first
    time.sleep(0.4)
    assert worker.attempt(task(), AMPLE).sequences == [[1, 2]]
    assert worker.attempt(task(), AMPLE).sequences == [[1, 2]]


def test_an_answer_to_no_task_is_none(worker: AttackWorker, task: Tasks) -> None:
    answer = worker.attempt(task(how="twice", number=7), AMPLE)
    assert answer.error == "rogue gave an answer that nobody asked for"


def test_another_attack_has_another_process(worker: AttackWorker, task: Tasks) -> None:
    worker.attempt(task(how="double"), AMPLE)
    assert worker.attempt(task(how="width"), AMPLE).sequences == [[8]]  # its own, all along
    assert worker.attempt(replace(task(how="width"), label="rogue-2"), AMPLE).sequences == [[4]]


@linux
def test_what_an_attack_started_ends_with_it(worker: AttackWorker, task: Tasks) -> None:
    orphan = worker.attempt(task(how="orphan"), AMPLE).diagnostics["process"]
    wait_for(lambda: not running(int(orphan)))


# Memory


@linux
def test_what_its_children_hold_counts(worker: AttackWorker, task: Tasks) -> None:
    error = worker.attempt(task(how="family"), LIMITED).error
    assert re.match(r"rogue took [\d.]+ GB of memory", error or "")


@linux
@pytest.mark.slow
def test_a_file_in_memory_is_no_larger_than_the_limit(worker: AttackWorker, task: Tasks) -> None:
    error = worker.attempt(task(how="nameless"), LIMITED).error
    assert error == "rogue raised OSError: [Errno 27] File too large"


@linux
def test_no_thread_goes_on_after_the_answer(worker: AttackWorker, task: Tasks) -> None:
    process = worker.attempt(task(how="after"), LIMITED).diagnostics["process"]
    wait_for(lambda: not running(int(process)))
    assert worker.numbers() == ()


# The source of workers


@pytest.mark.slow
def test_a_source_that_does_not_answer_is_replaced(
    worker: AttackWorker, task: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker.attempt(task(), AMPLE).error is None
    process, source = worker.numbers()
    monkeypatch.setattr(processes, "PATIENCE", 0.3)
    os.kill(source, signal.SIGSTOP)
    error = worker.attempt(task(how="sleep"), Limits(seconds=0.2)).error
    assert error == "rogue took longer than attack.seconds = 0.2 allows"
    wait_for(lambda: not running(process) and not running(source))
    monkeypatch.undo()
    assert worker.attempt(task(), AMPLE).sequences == [[1, 2]]
    source = worker.numbers()[1]
    worker.close()
    os.kill(source, signal.SIGSTOP)  # and nobody is at work
    monkeypatch.setattr(processes, "PATIENCE", 0.3)
    assert worker.attempt(task(), AMPLE).sequences == [[1, 2]]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["fork", "end"])
def test_an_interrupt_leaves_no_answer_for_the_next_question(
    worker: AttackWorker, task: Tasks, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    assert worker.attempt(task(), AMPLE).error is None
    if what == "fork":
        worker.close()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("attacks.worker.channel.receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.attempt(task(), AMPLE) if what == "fork" else worker.close()
    assert worker.attempt(task(), AMPLE).sequences == [[1, 2]]
    worker.close()


# Other processes of the user

PROBE = """
import ctypes, os, signal, sys
sys.path[:0] = [sys.argv[1]]
from attacks.worker.enclosing import enclose
other, secret = int(sys.argv[2]), sys.argv[3].encode()
os.setgroups([])
os.setgid(64999)
os.setuid(64999)  # which takes root's capabilities, too

def seen():
    try:
        return secret in open(f"/proc/{other}/environ", "rb").read()
    except PermissionError:
        return False

def told():
    try:
        os.kill(other, signal.SIGCONT)
        return True
    except PermissionError:
        return False

before = seen(), told()
reader, output = os.pipe()
here, there = os.pipe()
if not os.fork():
    enclose(there, output, sys.argv[4], sys.path, os.getppid())
    os.write(there, repr((before, (seen(), told()))).encode())
    os._exit(0)
os.close(there)
os.wait()
print(os.read(here, 1000).decode())
"""


@linux
@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which root alone can")
def test_a_worker_sees_no_other_process_of_its_user() -> None:
    landlock = int(subprocess.run([sys.executable, "-c", VERSION], capture_output=True).stdout)
    nobody: Any = {"user": 64999, "group": 64999, "extra_groups": []}
    with subprocess.Popen(["sleep", "600"], env={"RAY_AUTH_TOKEN": "a-token"}, **nobody) as other:
        words = [
            sys.executable,
            "-c",
            PROBE,
            str(Path(__file__).parents[3]),
            str(other.pid),
            "a-token",
            "/",
        ]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        finally:
            other.kill()
    assert done.stdout.strip() == str(
        ((True, True), (landlock < 4, landlock < 6))  # what it may without
    ), done.stderr


VERSION = """
import ctypes
print(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))
"""
