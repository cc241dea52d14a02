import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attacks.worker.attempt import attempted
from attacks.worker.task import Task
from fedsim.lab.isolation.processes import environment
from fedsim.lab.isolation.worker import AttackWorker, Limits
from fedsim.messages import Broadcast, Knowledge, Update
from fedsim.vault.keys import own_key
from fedsim.vault.writer import VaultWriter
from tests.conftest import Adapt, Gradient, Sentences
from tests.lab.isolation.conftest import AMPLE, MODEL, Tasks, running, wait_for

ENDS = {
    "raise": r"rogue raised KeyError: 'a slip of its author'",
    "leave": r"rogue raised SystemExit: 0",
    "die": r"rogue ended its process with code 7",
    "crash": r"rogue ended its process by SIGSEGV",
    "fork": r"rogue ended its process with code 7",
    "signal": r"rogue ended its process by signal 40",
    "wordless": r"UnsupportedObservation",
    "large": r"rogue raised MalformedMessage: diagnostic 'x' must be an integer of 64 bits",
    "forever": r"rogue gave an answer that makes no sense: seconds: Input should be a finite.*",
    "long": r"rogue gave an answer that cannot be read",
    "flood": r"rogue gave an answer that makes no sense: a guess has at most 1,048,576 tokens.*",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
def test_what_an_attack_does_to_its_process_is_a_line(
    worker: AttackWorker, task: Tasks, how: str
) -> None:
    answer = worker.attempt(task(how=how), AMPLE)
    assert re.fullmatch(ENDS[how], answer.error or "") and not answer.sequences
    assert worker.attempt(task(), AMPLE).sequences == [[1, 2]]  # and the next one runs


def test_a_traceback_says_where_it_was(worker: AttackWorker, task: Tasks) -> None:
    answer = worker.attempt(task(how="raise"), AMPLE)
    assert re.fullmatch(r"rogue_attacks\.py:\d+ in _raise", answer.place)
    assert answer.traceback.startswith("Traceback (most recent call last):\n")
    assert answer.traceback.endswith("KeyError: 'a slip of its author'\n")


def test_what_a_crash_left_behind_is_kept(worker: AttackWorker, task: Tasks) -> None:
    answer = worker.attempt(task(how="crash"), AMPLE)
    assert "Fatal Python error" in answer.traceback and "in _crash" in answer.traceback


@pytest.mark.slow
@pytest.mark.parametrize("how", ["loop", "sleep", "chatter"])
def test_an_attack_that_does_not_end_is_ended(worker: AttackWorker, task: Tasks, how: str) -> None:
    started = time.monotonic()
    answer = worker.attempt(task(how=how), Limits(seconds=0.3))
    assert answer.error == "rogue took longer than attack.seconds = 0.3 allows"
    assert 0.3 <= time.monotonic() - started < 30.0
    assert worker.attempt(task(), AMPLE).sequences == [[1, 2]]


def test_an_attack_takes_no_more_memory_than_it_may(worker: AttackWorker, task: Tasks) -> None:
    answer = worker.attempt(task(how="grow"), Limits(seconds=300.0, memory=1.0))
    assert re.match(r"rogue (raised MemoryError|took [\d.]+ GB of memory)", answer.error or "")
    assert worker.attempt(task(), AMPLE).sequences == [[1, 2]]


def test_an_attack_that_fits_is_left_alone(worker: AttackWorker, task: Tasks) -> None:
    assert worker.attempt(task(), Limits(seconds=300.0, memory=8.0)).error is None


def test_what_an_attack_says_reaches_no_terminal(
    worker: AttackWorker,
    task: Tasks,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = logging.getLogger("fedsim.attacks")  # where its progress is told, if anybody listens
    monkeypatch.setattr(logger, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(logger, "propagate", False)
    assert worker.attempt(task(how="talk"), AMPLE).error is None
    assert capfd.readouterr() == ("", "")


def test_progress_is_told(worker: AttackWorker, task: Tasks) -> None:
    told: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger, level = logging.getLogger("fedsim.attacks"), logging.getLogger("fedsim.attacks").level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        worker.attempt(task(how="talk"), AMPLE)
        worker.attempt(replace(task(how="talk"), tells=False), AMPLE)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert told == ["step 1 of 2"]


def test_what_an_attack_does_to_tensors_stays_with_it(worker: AttackWorker, task: Tasks) -> None:
    given = task(how="vandalise")
    worker.attempt(given, AMPLE)
    assert given.broadcast.parameters["w"].tolist() == [0.0, 1.0, 2.0, 3.0]
    looks = replace(given, parameters={"how": "look"})  # the same broadcast, given again
    assert worker.attempt(looks, AMPLE).sequences == [[6, 0]]


def test_one_process_serves_many_attempts(worker: AttackWorker, task: Tasks) -> None:
    worker.close()
    seen = [worker.attempt(task(how="remember"), AMPLE).sequences for _ in range(3)]
    assert seen == [[[1]], [[2]], [[3]]]


def test_an_attack_that_is_not_installed_there_is_a_line(worker: AttackWorker, task: Tasks) -> None:
    error = worker.attempt(task("nobody"), AMPLE).error
    assert error and error.startswith("nobody raised BadInput: unknown attack 'nobody'")


# The truth


@pytest.mark.slow
def test_nothing_of_the_truth_is_where_an_attack_can_look(
    worker: AttackWorker, task: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_SECRET_TOKEN", "a secret of the lab's")
    truth = "The patient is " + "Ada Lovelace."  # in this process's memory, from now on
    VaultWriter(tmp_path / "vault", own_key().seal).note(1, 0, [(4, 5, 6)], [1])
    marks = ("[T]he patient is Ada", f"[{own_key().private.hex()[0]}]{own_key().private.hex()[1:]}")
    snoop = task("snoop", vault=str(tmp_path / "vault"), marks=marks)
    with (tmp_path / "truth.txt").open("w+") as file:
        os.set_inheritable(file.fileno(), True)
        file.write(truth)
        worker.close()  # a worker is made while all of it is there
        answer = worker.attempt(snoop, AMPLE)
    assert answer.error is None, answer.traceback
    assert {where: n for where, n in answer.diagnostics.items() if n} == {}
    here = attempted(snoop).diagnostics  # where all of it is, the same cheat finds it
    assert not {"modules", "environment", "frames", "own memory"} - {k for k in here if here[k]}
    assert here.keys() == answer.diagnostics.keys()


def test_the_environment_is_what_libraries_need() -> None:
    ours = {
        "PATH": "/bin", "HOME": "/root", "CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "2",
        "HF_HOME": "/hub", "HF_TOKEN": "t", "FEDSIM_KEY_FILE": "/k", "AWS_SECRET_ACCESS_KEY": "a",
        "RAY_AUTH_TOKEN": "r", "RAY_AUTH_MODE": "token", "PYTHONSTARTUP": "/x", "EDITOR": "vi",
    }  # fmt: skip
    kept = set(environment(ours)) - {"PYTHONPATH"}
    assert kept == {"PATH", "HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HOME"}


# The same guess


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["dager", "tag", "dlg"])
def test_a_guess_in_the_worker_is_that_of_this_process(
    worker: AttackWorker, attack: str, adapt: Adapt, sentences: Sentences, gradient: Gradient
) -> None:
    model = adapt("gpt2-tiny")
    sent = model.initial_parameters()
    some = sentences(model, 2)
    task = Task(
        attack=attack,
        label=attack,
        parameters={} if attack == "dager" else {"steps": 3},
        model=MODEL,
        device="cpu",
        broadcast=Broadcast(round=1, parameters=sent),
        update=Update(tensors=gradient(model, sent, some), kind="gradient", num_examples=2),
        knowledge=Knowledge(labels=(0, 1), lengths=tuple(map(len, some))),
        seed=5,
    )
    there, here = worker.attempt(task, AMPLE), attempted(task)
    assert there.error is None and there.sequences
    assert there.sequences == here.sequences and there.diagnostics == here.diagnostics


# The end of the one who asks

ENDLESS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.path.insert(0, sys.argv[1])
import torch
from attacks.worker.task import Task
from fedsim.lab.isolation.worker import AttackWorker, Limits
from fedsim.messages import Broadcast, Knowledge, Update
from fedsim.models import ModelSpec

def task(how):
    update = Update(tensors={}, kind="gradient", num_examples=1)
    return Task(attack="rogue", label="rogue", parameters={"how": how}, device="cpu", seed=1,
                model=ModelSpec(name="builtin:gpt2-tiny"), knowledge=Knowledge(), update=update,
                broadcast=Broadcast(round=1, parameters={}))

worker = AttackWorker()
assert worker.attempt(task("nothing"), Limits(seconds=300.0)).error is None
print(*worker.numbers(), flush=True)
worker.attempt(task("loop"), Limits(seconds=300.0))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_the_one_who_asks(installed: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(installed)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as lab:  # fmt: skip
        assert lab.stdout is not None
        line = lab.stdout.readline()
        processes = [int(word) for word in line.split()]
        assert len(processes) == 2, lab.stderr and lab.stderr.read()
        time.sleep(0.3)  # it is at its endless task
        lab.send_signal(number)
        lab.wait(60)
    wait_for(lambda: not any(running(process) for process in processes))


def test_a_torch_tensor_of_each_kind_arrives_as_it_was(worker: AttackWorker, task: Tasks) -> None:
    kinds = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8]
    sent = {str(kind): torch.tensor([[1, 0, 1]]).to(kind).t() for kind in kinds}
    given = replace(task(how="look"), broadcast=Broadcast(round=1, parameters=sent),
                    update=Update(tensors={}, kind="gradient", num_examples=1))  # fmt: skip
    assert worker.attempt(given, AMPLE).sequences == [[2] * len(kinds)]
