import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedsim.errors import ClientFailure
from fedsim.wire import to_arrays, to_tensors
from server import Exchange, GridProxy, TapGrid
from tests.server.conftest import ToyGrid, weights
from tests.server.tapped import NODES, START, message

Seen = list[Sequence[Exchange]]


def tapped(nodes: Any = NODES, **options: Any) -> tuple[TapGrid, Seen]:
    shown: Seen = []
    return TapGrid(ToyGrid(nodes), [shown.append], **options), shown


def bits(content: RecordDict) -> dict[str, bytes]:
    (arrays,) = content.array_records.values()
    return {name: array.data for name, array in arrays.items()}


def config(content: RecordDict) -> dict[str, Any]:
    return dict(content.config_records["config"])


# The pitfalls of a tap


def test_messages_and_replies_may_be_generators() -> None:
    grid, shown = tapped()
    replies = list(grid.send_and_receive(message(node) for node in NODES))
    assert len(replies) == 3  # none was lost to the tap, which read them before
    assert [exchange.node_id for exchange in shown[0]] == [
        71,
        5,
        33,
    ]  # in the order of the messages
    assert all(exchange.received is not None for exchange in shown[0])


def test_what_was_sent_is_kept_when_flower_rewrites_its_shared_config() -> None:
    grid, shown = tapped()
    strategy = FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0)
    shared = ConfigRecord({"lr": 0.5})
    arrays = to_arrays(START)
    sent = []
    for round_ in (1, 2):
        messages = list(strategy.configure_train(round_, arrays, shared, grid))
        assert len({id(message.content.config_records["config"]) for message in messages}) == 1
        sent += messages
        list(grid.send_and_receive(messages))
    assert config(sent[0].content)["server-round"] == 2  # Flower did rewrite round 1's record
    assert [exchange.round for round_ in shown for exchange in round_] == [1, 1, 1, 2, 2, 2]
    assert [config(exchange.sent)["server-round"] for exchange in shown[0]] == [1, 1, 1]
    assert config(shown[0][0].sent)["lr"] == 0.5


def test_what_was_sent_is_kept_when_a_client_in_process_spoils_it() -> None:
    def spoil(received: Message) -> RecordDict:
        answer = NODES[5](received)
        assert isinstance(answer, RecordDict)
        received.content.config_records["config"]["server-round"] = 77
        received.content.array_records["arrays"]["w.bias"] = Array(np.zeros(5, np.float32))
        return answer

    grid, shown = tapped({5: spoil})
    before = bits(message(5).content)
    list(grid.send_and_receive([message(5)]))
    assert (shown[0][0].round, config(shown[0][0].sent)["server-round"]) == (4, 4)
    assert bits(shown[0][0].sent) == before


def test_messages_that_share_their_content_share_one_snapshot() -> None:
    grid, shown = tapped()
    shared = message(71).content
    list(grid.send_and_receive([message(71, content=shared), message(5, content=shared)]))
    list(grid.send_and_receive([message(71), message(5)]))
    assert shown[0][0].sent is shown[0][1].sent is not shared
    assert shown[1][0].sent is not shown[1][1].sent


def test_what_came_back_is_kept_when_replies_are_edited_in_place() -> None:
    grid, shown = tapped()
    replies = list(grid.send_and_receive([message(5)]))
    before = bits(replies[0].content)
    replies[0].content.array_records["arrays"]["w.bias"] = Array(
        np.zeros(5, np.float32)
    )  # one entry,
    replies[0].content["metrics"] = MetricRecord({"num-examples": 99})  # one record,
    kept = shown[0][0].received
    assert kept is not None
    assert bits(kept) == before
    replies[0].content = RecordDict({"arrays": ArrayRecord()})  # and the whole content
    assert bits(kept) == before
    assert kept.metric_records["metrics"]["num-examples"] == 3  # what node 5 says


def test_replies_are_paired_by_the_message_they_answer() -> None:
    dead = {**NODES, 5: lambda _: Error(3, "node unavailable")}
    grid, shown = tapped(dead)
    replies = list(grid.send_and_receive([message(71), message(5), message(33)]))
    # Replies arrive the last one first, and the dead node's comes from the link, node 1.
    assert [reply.metadata.src_node_id for reply in replies] == [33, 1, 71]
    expected = {node: weights(at) for node, at in ((71, 1), (33, 3))}
    for exchange in shown[0]:
        if exchange.node_id == 5:
            assert (exchange.received, exchange.error) == (None, "node unavailable")
        else:
            assert exchange.received is not None
            (got,) = exchange.received.array_records.values()
            for name, tensor in to_tensors(got).items():  # towards() goes half the way
                half = -0.5 * (START[name] - expected[exchange.node_id][name])
                assert (tensor == half).all()


def test_the_message_id_is_read_after_the_push() -> None:
    grid, shown = tapped()
    asked = message(5)
    assert not asked.metadata.message_id  # the push assigns it: it cannot be the key before
    list(grid.send_and_receive([asked]))
    assert shown[0][0].received is not None


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (lambda _: None, "no reply before the timeout"),
        (lambda _: Error(2, "Traceback ...\n  File x\nValueError: too short\n"), "ValueError: too"),
        (lambda _: Error(2, None), "no reason given"),
        (lambda _: Error(2, " \n"), "no reason given"),
    ],
)
def test_a_failing_client_stops_the_round_or_is_logged(
    answer: Callable[[Message], Any], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = {**NODES, 5: answer}
    grid, shown = tapped(nodes, on_failure="stop")
    with pytest.raises(ClientFailure, match=f"^round 4, client 5: {line}[^\n]*$"):
        grid.send_and_receive([message(71), message(5)])

    grid, shown = tapped(nodes, on_failure="continue")
    with caplog.at_level(logging.WARNING, "fedsim.tap"):
        replies = list(grid.send_and_receive([message(71), message(5)]))
    assert f"round 4, client 5: {line}" in caplog.text
    assert [exchange.received is None for exchange in shown[0]] == [False, True]
    assert [reply.has_error() for reply in replies] in ([False], [True, False])  # handed on as is


def test_every_failure_of_a_round_is_named() -> None:
    nodes = {71: lambda _: Error(2, "boom"), 5: lambda _: None, 33: NODES[33]}
    grid, _ = tapped(nodes, on_failure="stop")
    with pytest.raises(ClientFailure, match=r"client 71: boom; round 4, client 5: no reply"):
        grid.send_and_receive(message(node) for node in nodes)


def test_a_harness_that_knows_the_partitions_gives_the_client_its_number() -> None:
    inner = ToyGrid({**NODES, 5: lambda _: Error(2, "boom")})
    inner.partition = {71: 2, 5: 0}  # type: ignore[attr-defined]
    shown: Seen = []
    list(TapGrid(inner, [shown.append]).send_and_receive(message(node) for node in NODES))
    assert [exchange.client for exchange in shown[0]] == [2, 0, None]
    with pytest.raises(ClientFailure, match="client 0: boom"):
        TapGrid(inner, [], on_failure="stop").send_and_receive([message(5)])


# What hooks see, and that they cannot touch anything


@pytest.mark.parametrize("kind", ["query", "evaluate"])
def test_other_messages_pass_unseen(kind: str) -> None:
    grid, shown = tapped({5: lambda _: Error(2, "boom")}, on_failure="stop")
    replies = list(grid.send_and_receive([message(5, kind=kind)]))
    assert replies[0].has_error()
    assert shown == []


def test_training_under_another_name_is_seen() -> None:
    grid, shown = tapped()
    list(grid.send_and_receive([message(5, kind="train.gradient")]))
    assert len(shown) == 1


def test_a_round_of_nobody_is_no_round() -> None:
    grid, shown = tapped()
    assert list(grid.send_and_receive([])) == []
    assert shown == []


def test_rounds_are_counted_where_no_message_says_them() -> None:
    grid, shown = tapped()
    bare = RecordDict({"arrays": to_arrays(START)})
    for _ in range(2):
        list(grid.send_and_receive([message(71, content=bare), message(5, content=bare)]))
    assert [[exchange.round for exchange in round_] for round_ in shown] == [[1, 1], [2, 2]]


def test_hooks_run_in_order_and_each_has_exchanges_of_its_own() -> None:
    calls: list[tuple[str, Sequence[Exchange]]] = []
    hooks = [lambda shown, name=name: calls.append((name, shown)) for name in "ab"]
    list(TapGrid(ToyGrid(NODES), hooks).send_and_receive([message(5)]))
    assert [name for name, _ in calls] == ["a", "b"]
    assert calls[0][1] == calls[1][1]
    assert calls[0][1][0].sent is not calls[1][1][0].sent


def vandal(exchanges: Iterable[Exchange]) -> None:
    """Overwrites all that it is shown."""
    for exchange in exchanges:
        for content in (exchange.sent, exchange.received):
            assert content is not None
            for record in content.array_records.values():
                for name in list(record):
                    record[name] = Array(np.full(record[name].shape, 7.0, np.float32))
            for metrics in content.metric_records.values():
                metrics["num-examples"] = 1000
            for name in list(content):
                del content[name]


def test_a_vandal_changes_neither_what_is_sent_nor_the_aggregate() -> None:
    results = []
    for hooks in ([], [vandal]):
        inner = ToyGrid(NODES)
        strategy = FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0)
        messages = strategy.configure_train(1, to_arrays(START), ConfigRecord(), inner)
        # A fixed order: FedAvg samples the nodes at random, and a float sum depends on it.
        ordered = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        replies = TapGrid(inner, hooks).send_and_receive(ordered)
        arrays, metrics = strategy.aggregate_train(1, replies)
        assert arrays is not None and metrics is not None
        sent = [bits(message.content) for message in inner.asked]
        results.append(({name: array.data for name, array in arrays.items()}, dict(metrics), sent))
    assert results[0] == results[1]


def test_a_proxy_hands_everything_to_the_grid_inside() -> None:
    inner = ToyGrid(NODES)
    proxy = GridProxy(inner)
    run = object()
    proxy.set_run(cast(Any, run))
    assert proxy.run is inner.run is run
    assert list(proxy.get_node_ids()) == [71, 5, 33]
    made = proxy.create_message(message(5).content, "train", 5, "group")
    (number,) = proxy.push_messages([made])
    (reply,) = proxy.pull_messages([number])
    assert reply.metadata.reply_to_message_id == made.metadata.message_id == number
