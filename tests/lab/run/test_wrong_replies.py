"""Whole runs in which a client's reply is wrong; all ways to be wrong are in the server's tests."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients import build_client_app
from fedsim.errors import ClientFailure
from fedsim.lab.config import Config
from fedsim.lab.run.experiment import failures
from fedsim.lab.store.rounds import RoundRecord
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.summary import read_summary
from fedsim.lab.terminal.run import print_table
from tests.lab.conftest import experiment
from tests.lab.runs import go
from tests.server.wrong import WRONG, Wrong, raising

CLIENT = 1


def tampering(wrong: Wrong) -> Callable[..., ClientApp]:
    """Builds the clients' app, in which ``CLIENT`` answers as ``wrong`` has it in round 1."""

    def build(*args: Any) -> ClientApp:
        right, app = build_client_app(*args), ClientApp()

        @app.query()
        def whoami(message: Message, context: Context) -> Message:
            return right(message, context)

        @app.train()
        def train(message: Message, context: Context) -> Message:
            reply = right(message, context)
            rounds = [r["server-round"] for r in message.content.config_records.values()]
            if context.node_config["partition-id"] == CLIENT and rounds == [1]:
                wrong(reply.content)
            return reply

        return app

    return build


def config(on_failure: str, **more: Any) -> Config:
    usual = {"clients": 3, "clients_per_round": 3, "rounds": 2, "on_failure": on_failure}
    return experiment(data={"evaluate": 0}, federation={**usual, **more})


def go_with(root: Path, wrong: Wrong, on_failure: str) -> RunDirectory:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.lab.run.experiment.build_client_app", tampering(wrong))
        run = RunDirectory(root)
        go(run, config(on_failure))
    return run


@pytest.mark.slow
def test_a_wrong_reply_is_left_out_or_stops_the_run(tmp_path: Path) -> None:
    outright = go_with(tmp_path / "outright", raising, "continue")
    run = go_with(tmp_path / "wrong", WRONG["shape"][0], "continue")
    assert [r.checksum for r in run.rounds()] == [r.checksum for r in outright.rounds()]
    first, second = run.rounds()[1:]
    assert (first.clients, second.clients) == ([0, 2], [0, 1, 2]) and not second.failures
    (failure,) = first.failures
    assert failure.client == CLIENT
    assert re.match("wrong reply: its '.*' must have shape", failure.error)
    assert not (run.captures / "round=1" / f"client={CLIENT}").exists()
    with pytest.raises(ClientFailure, match=rf"^round 1, client {CLIENT}: wrong reply: its "):
        go_with(tmp_path / "stopped", WRONG["shape"][0], "stop")


@pytest.mark.slow
def test_a_round_that_trained_nothing_is_noted_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fedsim.lab.run.experiment.build_client_app", tampering(raising))
    run = RunDirectory(tmp_path / "run")
    summary = go(run, config("continue", strategy="bulyan"))
    said = "round 1: no aggregate, the weights stay"
    assert summary["notes"].count(said) == 1
    before, first, second = run.rounds()
    assert (before.stayed, first.stayed, second.stayed) == (False, True, False)
    assert before.checksum == first.checksum != second.checksum
    print_table(read_summary(run.root))
    assert f"Note: {said}" in capsys.readouterr().out


@pytest.mark.parametrize("error", ["", " \n\t", "\v"])
def test_a_failure_without_a_word_has_a_line(error: str) -> None:
    failed = {"client": 0, "error": error}
    record = RoundRecord.model_validate(
        {"round": 1, "utility": None, "measures": None, "checksum": "", "seconds": 1.0}
        | {"failures": [failed]}
    )
    assert [failure.error for failure in failures([record])] == ["no reason given"]
