"""The Flower app of a client."""

import ctypes
import math
import sys
import traceback
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from clients import ClientSettings, build_client_app
from clients.update import client_update
from defenses import DPSGD
from fedsim.errors import BadInput, ClientFailure, DefenseFailed, MalformedMessage
from fedsim.training import Examples
from fedsim.types import Parameters
from fedsim.vault.reader import VaultReader
from fedsim.wire import read_partition, read_update, to_arrays
from tests.clients.rounds import broadcast, instead


def context(client: int) -> Context:
    return Context(1, 50, {"partition-id": client, "num-partitions": 3}, RecordDict(), {})


def test_a_client_tells_its_partition(settings: ClientSettings) -> None:
    reply = build_client_app(settings)(Message(RecordDict(), 50, "query"), context(2))
    assert read_partition(reply.content) == 2


def test_a_client_answers_with_its_update(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    asked = broadcast(sent, 2)
    config = ConfigRecord({"server-round": 2, **asked.config})
    content = RecordDict({"arrays": to_arrays(sent), "config": config})
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: 0
    prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: as an engine's process is
    reply = build_client_app(settings)(Message(content, 50, "train"), context(1))
    assert prctl(3, 0, 0, 0, 0) == 0  # PR_GET_DUMPABLE: no longer, to no other process
    got = read_update(reply.content, asked)
    expected = client_update(settings, 1, asked)
    assert (got.kind, got.num_examples) == (expected.kind, expected.num_examples)
    assert all(torch.equal(got.tensors[k], t) for k, t in expected.tensors.items())
    words = [dict(record) for record in reply.content.config_records.values()]
    assert words == [{"kind": "gradient"}]  # no other words travel


def secretive(parameters: Parameters, examples: Examples, g: torch.Generator) -> Any:
    return {"w": torch.tensor([1.0, math.inf])}, 0.7231


def crashes(parameters: Parameters, examples: Examples, g: torch.Generator) -> Any:
    raise ValueError("the loss was 0.7231")


def fails(parameters: Parameters, examples: Examples, g: torch.Generator) -> Any:
    raise DefenseFailed("the update's norm is 0.7231")


def leaves(parameters: Parameters, examples: Examples, g: torch.Generator) -> Any:
    sys.exit("the loss was 0.7231")


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        (leaves, "ClientFailure: SystemExit on the client; its audit/round=2/client=1.json"),
        (secretive, "ClientFailure: training diverged; lower training.learning_rate"),
        (crashes, "ClientFailure: ValueError on the client; its audit/round=2/client=1.json"),
        (fails, "ClientFailure: DefenseFailed on the client; its audit/round=2/client=1.json"),
    ],
)
def test_what_the_server_is_told_of_a_failure_has_no_figure_of_the_data(
    settings: ClientSettings, sent: dict[str, Tensor], inside: Any, told: str
) -> None:
    asked = broadcast(sent, 2)
    config = ConfigRecord({"server-round": 2, **asked.config})
    content = RecordDict({"arrays": to_arrays(sent), "config": config})
    private = DPSGD(noise_multiplier=1.0)
    broken = replace(settings, defenses=(private, instead(inside)))
    with pytest.raises(ClientFailure) as caught:
        build_client_app(broken)(Message(content, 50, "train"), context(1))
    text = "".join(traceback.format_exception(caught.value))  # what an engine sends
    assert told in text and "0.7231" not in text
    row = VaultReader(settings.vault).measured(2, 1)
    assert row is not None and "0.7231" in str(row)
    (spent, _) = settings.memory.before(1, 3, 2)
    assert spent.values["rounds"] == 1  # the failure is an answer: it costs epsilon


def test_the_audit_is_named_where_it_was_written(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    def nowhere(*_: Any) -> Any:
        raise OverflowError("0.7231 is too large")

    config = ConfigRecord({"server-round": 2, **broadcast(sent, 2).config})
    content = RecordDict({"arrays": to_arrays(sent), "config": config})
    message = Message(content, 50, "train")
    said = r"^OverflowError on the client"
    with pytest.raises(ClientFailure, match=rf"{said}; its audit/round=2/client=1.json says more$"):
        build_client_app(settings, nowhere)(message, context(1))  # before there is a batch
    row = VaultReader(settings.vault).measured(2, 1)
    assert row is not None and "0.7231" in row["error"]
    settings.vault.with_name("away").touch()
    away = replace(settings, vault=settings.vault.with_name("away") / "run" / "vault")
    with pytest.raises(ClientFailure, match=rf"{said}$"):
        build_client_app(away, nowhere)(message, context(1))


def test_a_message_without_a_round_is_refused(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    content = RecordDict({"arrays": to_arrays(sent), "config": ConfigRecord()})
    with pytest.raises((BadInput, MalformedMessage), match="names no round"):
        build_client_app(settings)(Message(content, 50, "train"), context(1))


def test_settings_are_small_enough_to_travel_with_every_message(settings: ClientSettings) -> None:
    import cloudpickle

    # Ray pickles the app with each message; model and data are loaded where it arrives.
    assert len(cloudpickle.dumps(build_client_app(settings))) < 20_000
