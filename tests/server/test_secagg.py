"""Under secure aggregation the server's side sees one reply: the weighted mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedsim.captures import captured_clients, find_captures, read_capture
from fedsim.errors import ClientFailure, MalformedMessage
from fedsim.messages import Update
from fedsim.tap.keys import summed_nodes
from fedsim.wire import read_own_update, to_arrays
from server import Capture, Exchange, TapGrid
from server.secagg import SecureSum, weighted_mean
from tests.server.conftest import ToyGrid, towards, weights

START = weights(0)
EXAMPLES = {71: 1, 5: 3, 33: 4}
NODES: dict[int, Any] = {
    node: towards(weights(row), examples=count)
    for row, (node, count) in enumerate(EXAMPLES.items(), start=1)
}


class Known(ToyGrid):
    partition = {71: 0, 5: 1, 33: 2}  # noqa: RUF012


def messages(kind: str = "train") -> list[Message]:
    config = ConfigRecord({"server-round": 2})
    content = RecordDict({"arrays": to_arrays(START), "config": config})
    return [Message(content, node, kind) for node in NODES]


def watched(nodes: Any = NODES, **options: Any) -> tuple[TapGrid, list[Sequence[Exchange]]]:
    shown: list[Sequence[Exchange]] = []
    return TapGrid(SecureSum(Known(nodes)), [shown.append], **options), shown


def expected(names: Sequence[int] = (71, 5, 33)) -> dict[str, torch.Tensor]:
    """Each client moves half the way to its own target (towards): by hand, in float64."""
    total = sum(EXAMPLES[node] for node in names)
    target = {node: weights(row) for row, node in enumerate(EXAMPLES, start=1)}
    return {
        name: torch.stack(
            [
                EXAMPLES[node] / total * -0.5 * (w.double() - target[node][name].double())
                for node in names
            ]
        ).sum(dim=0)
        for name, w in START.items()
    }


def test_the_tap_sees_one_reply_and_it_is_the_weighted_mean() -> None:
    grid, shown = watched()
    replies = list(grid.send_and_receive(messages()))
    assert len(replies) == 1 and len(shown[0]) == 1
    (exchange,) = shown[0]
    assert (exchange.client, exchange.cohort, exchange.round, exchange.error) == (
        0,
        (0, 1, 2),
        2,
        None,
    )
    assert exchange.received is not None
    update = read_own_update(exchange.received)
    for name, tensor in expected().items():
        torch.testing.assert_close(update.tensors[name].double(), tensor, rtol=1e-6, atol=1e-7)
    assert (update.kind, update.num_examples, update.metrics) == ("delta", 8, {})


def test_no_clients_own_numbers_are_left_in_what_is_seen() -> None:
    grid, shown = watched()
    (reply,) = grid.send_and_receive(messages())
    for content in (reply.content, shown[0][0].received):
        assert content is not None
        assert set(content) == {"arrays", "metrics", "fedsim.update", "fedsim.sum"}
        assert dict(content.metric_records["metrics"]) == {"num-examples": 8}
    own = [towards(weights(row), examples=n)(messages()[0]) for row, n in ((1, 1), (2, 3), (3, 4))]
    for sent in own:
        assert isinstance(sent, RecordDict)
        masked, plain = sent.array_records["arrays"], reply.content.array_records["arrays"]
        assert masked["w.bias"].data != plain["w.bias"].data


def test_a_client_that_fails_is_left_out_of_the_sum() -> None:
    nodes = {**NODES, 8: lambda _: Error(3, "node unavailable")}
    grid, shown = watched(nodes)
    sent = [Message(messages()[0].content, node, "train") for node in (8, *NODES)]
    list(grid.send_and_receive(sent))
    failed, exchange = shown[0]
    assert (failed.node_id, failed.error, failed.cohort) == (8, "node unavailable", ())
    assert exchange.cohort == (0, 1, 2) and exchange.received is not None
    torch.testing.assert_close(
        read_own_update(exchange.received).tensors["w.bias"].double(), expected()["w.bias"],
        rtol=1e-6, atol=1e-7,
    )  # fmt: skip


def test_fewer_than_three_answers_are_not_summed() -> None:
    grid, shown = watched({**NODES, 5: lambda _: Error(3, "node unavailable")})
    with pytest.raises(ClientFailure, match="of 3 clients, got 2; node unavailable"):
        grid.send_and_receive(messages())
    assert not shown


def test_the_mean_is_as_wide_as_the_widest_update() -> None:
    halves = Update(tensors={"w": torch.ones(2).half()}, kind="delta", num_examples=1)
    floats = Update(tensors={"w": torch.full((2,), 3e6)}, kind="delta", num_examples=2)
    for updates in ([halves, floats], [floats, halves]):
        mean = weighted_mean(updates).tensors["w"]  # 2e6 is no half-precision number
        assert mean.dtype == torch.float32 and mean.tolist() == pytest.approx([2000000 + 1 / 3] * 2)
    assert weighted_mean([halves, halves]).tensors["w"].dtype == torch.float16


def test_other_messages_pass() -> None:
    def answer(_: Message) -> RecordDict:
        return RecordDict({"node": ConfigRecord({"partition-id": 1})})

    grid = SecureSum(ToyGrid({node: answer for node in NODES}))
    replies = list(grid.send_and_receive(messages("query")))
    assert len(replies) == 3 and not any(summed_nodes(reply.content) for reply in replies)
    assert list(grid.send_and_receive([])) == []
    assert grid.partition == {}


def test_what_no_fedsim_client_sent_is_not_summed() -> None:
    def stock(_: Message) -> RecordDict:
        metrics = MetricRecord({"num-examples": 1})
        return RecordDict({"arrays": to_arrays(START), "metrics": metrics})

    grid = SecureSum(ToyGrid({node: stock for node in NODES}))
    with pytest.raises(MalformedMessage, match=r"the updates of fedsim's clients alone"):
        grid.send_and_receive(messages())


def test_the_mean_keeps_dtypes_and_is_summed_in_float64() -> None:
    small = torch.full((3,), 2.0**-24)
    parts = [torch.ones(3), small, small]
    updates = [
        Update(tensors={"w": part, "h": part.half()}, kind="gradient", num_examples=2)
        for part in parts
    ]
    mean = weighted_mean(updates)
    exact = torch.stack([part.double() for part in parts]).mean(0)
    assert torch.equal(mean.tensors["w"], exact.float())
    assert mean.tensors["h"].dtype == torch.float16
    assert (mean.num_examples, mean.kind) == (6, "gradient")


def test_a_capture_says_whose_sum_it_is(tmp_path: Path) -> None:
    grid = TapGrid(SecureSum(Known(NODES)), [Capture(tmp_path)])
    grid.send_and_receive(messages())
    (where,) = find_captures(tmp_path)
    captured = read_capture(where)
    assert (captured.client, captured.cohort, captured.clients) == (0, (0, 1, 2), (0, 1, 2))
    assert captured_clients(where) == (0, 1, 2)
    assert captured.update.num_examples == 8


def test_arrays_stay_arrays() -> None:
    grid = SecureSum(Known(NODES))
    (reply,) = grid.send_and_receive(messages())
    (arrays,) = reply.content.array_records.values()
    assert isinstance(arrays, ArrayRecord) and isinstance(arrays["w.bias"], Array)
    assert reply.metadata.reply_to_message_id
