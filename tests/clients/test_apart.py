"""A client in a process of its own: the same bits, and an end to what hangs, exits or dies."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import NoReturn

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from clients import ClientSettings
from clients.apart import Apart
from clients.holdings import client_side
from clients.update import client_update
from defenses import Defense, Gaussian
from defenses.base import Here
from fedsim.errors import ClientFailure
from fedsim.messages import Update
from fedsim.rng import Secret
from fedsim.types import Parameters
from tests.clients.peers import asleep, halves
from tests.clients.rounds import broadcast


def hang() -> NoReturn:
    while True:
        try:
            threading.Event().wait()
        except BaseException:
            continue


WAYS: dict[str, Callable[[], object]] = {
    "hang": hang,
    "exit": lambda: sys.exit(0),
    "quit": lambda: os._exit(0),
}


@dataclass(frozen=True, kw_only=True)
class Ends(Defense):
    """Ends the second client's first round otherwise than with an update."""

    how: str
    round: int = 0

    @override
    def begin(self, here: Here) -> Defense:
        return replace(self, round=here.round)

    @override
    def protect(self, tensors: Parameters, generator: torch.Generator) -> Parameters:
        if self.round == 1:
            WAYS[self.how]()
        return tensors


def same(some: Update, other: Update) -> bool:
    return (some.metrics, some.num_examples, some.kind) == (
        other.metrics,
        other.num_examples,
        other.kind,
    ) and all(torch.equal(some.tensors[name], other.tensors[name]) for name in other.tensors)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_no_other_process_reads_the_texts_in_its_memory() -> None:
    script = (
        "import ctypes, os; from clients.apart import _prepare; _prepare(os.getppid()); "
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert told.stdout == b"0\n"


def served_by(target: Callable[[Connection], None]) -> Apart:
    """Return one whose process is another."""
    process, context = Apart(), multiprocessing.get_context("spawn")
    process._pipe, theirs = context.Pipe()
    process._process = context.Process(target=target, args=(theirs,), daemon=True)
    process._process.start()
    theirs.close()
    return process


@pytest.mark.slow
def test_a_process_that_does_not_read_is_ended(
    settings: ClientSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.apart.LOADING", 1.0)
    process = served_by(asleep)
    large = broadcast({"w": torch.zeros(10**6)})  # more than a pipe holds
    line = r"^it took longer than 1 s \(loading the model and the data\)$"
    started = time.monotonic()
    with pytest.raises(ClientFailure, match=line):
        process.update(replace(settings, timeout=600.0), 1, large, client_side)
    assert 1.0 <= time.monotonic() - started < 60.0
    assert process._process is None


@pytest.mark.slow
def test_a_process_that_sends_half_of_an_update_is_ended(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    process = served_by(halves)
    line = r"^it took longer than 1 s \(its federation.timeout\)$"
    with pytest.raises(ClientFailure, match=line):
        process.update(replace(settings, timeout=1.0), 1, broadcast(sent), client_side)


@pytest.mark.slow
def test_a_client_is_ended_and_the_next_one_trains_on(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    settings = replace(settings, secret=Secret(bytes(16)))  # it has to come along, as the seal
    patient, process = replace(settings, timeout=600.0), Apart()
    trained = broadcast(sent, algorithm="fedavg", dropout=True, mini_batch_size=2, local_epochs=2)
    assert same(
        process.update(patient, 0, trained, client_side), client_update(settings, 0, trained)
    )
    said = {
        "exit": r"^SystemExit on the client; its audit/round=1/client=1.json says more$",
        "quit": r"^its process ended, exit code 0$",
        "hang": r"^it took longer than 1.5 s \(its federation.timeout\)$",
    }
    for how, line in said.items():
        defenses = (Gaussian(noise_multiplier=1.0), Ends(how=how))
        ends = replace(patient, defenses=defenses, vault=settings.vault / how)
        if how == "hang":
            ends = replace(ends, timeout=1.5)
        started = time.monotonic()
        with pytest.raises(ClientFailure, match=line):
            process.update(ends, 1, broadcast(sent), client_side)
        assert time.monotonic() - started < 60.0
        spent, _ = ends.memory.before(1, 2, 2)
        assert spent.values["rounds"] == 1  # what it may have sent
        if how == "quit":  # there is another process for the next one
            later = replace(patient, defenses=defenses, vault=ends.vault)
            again = process.update(later, 1, broadcast(sent, 2), client_side)
            here = replace(later, timeout=0.0)
            assert same(again, client_update(here, 1, broadcast(sent, 2)))
            other = client_update(replace(here, secret=None), 1, broadcast(sent, 2))
            assert not same(again, other)
