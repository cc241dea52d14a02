"""Wrong replies: each is its client's failure, and nothing else of the run is another."""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict

from fedsim.errors import ClientFailure, MalformedMessage
from fedsim.tap.keys import ARRAYS, UPDATE
from fedsim.wire import to_arrays
from server import Exchange, Progress, ServerSettings, build_server_app
from server.replies import check_array, check_metrics, usual_metrics
from tests.server.conftest import Answer, towards, weights
from tests.server.toys import partitioned, same
from tests.server.wrong import WRONG, Wrong, array, metrics, raising

CLIENT = 1
TARGETS = [weights(seed) for seed in (1, 2, 3)]


def tampered(wrong: Wrong, right: Answer) -> Answer:
    """Answers round 1 as ``wrong`` has it."""

    def answer(message: Message) -> RecordDict | Error | None:
        reply = right(message)
        assert isinstance(reply, RecordDict)
        if message.content.config_records["config"]["server-round"] == 1:
            try:
                wrong(reply)
            except RuntimeError as error:
                return Error(2, str(error))
        return reply

    return answer


def run(wrong: Wrong, **changes: Any) -> tuple[list[Progress], list[Sequence[Exchange]]]:
    """Run two rounds of three clients; return what was reported and what was shown."""
    usual: dict[str, Any] = {"clients": 3, "clients_per_round": 3, "rounds": 2, "seed": 6}
    usual |= {"learning_rate": 0.5, "config": {"algorithm": "fedsgd"}, "on_failure": "continue"}
    reported: list[Progress] = []
    shown: list[Sequence[Exchange]] = []
    start = Progress(round=0, parameters=weights(0))
    app = build_server_app(
        ServerSettings(**{**usual, **changes}), start, [shown.append], reported.append
    )
    answers = [towards(target, kind="gradient") for target in TARGETS]
    answers[CLIENT] = tampered(wrong, answers[CLIENT])
    grid = partitioned({90 - client: client for client in range(3)}, lambda c: answers[c])
    app(grid, Context(1, 0, {}, RecordDict(), {}))
    return reported, shown


@pytest.mark.slow
@pytest.mark.parametrize("secure_sum", [False, True], ids=["fedavg", "secure sum"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_reply_is_left_out(name: str, secure_sum: bool) -> None:
    wrong, why = WRONG[name]
    if secure_sum:  # of two there is none: the line is that of the failure
        with pytest.raises(ClientFailure, match=rf"got 2; wrong reply: (?=.*{why})"):
            run(wrong, secure_sum=True)
        return
    outright, _ = run(raising)
    reported, shown = run(wrong)
    assert len(reported) == len(outright) == 3
    for got, expected in zip(reported, outright, strict=True):
        assert same(dict(got.parameters), dict(expected.parameters))
    errors = [{exchange.client: exchange.error for exchange in round_} for round_ in shown]
    assert errors[1] == {0: None, 1: None, 2: None}
    assert (errors[0][0], errors[0][2]) == (None, None)
    error = errors[0][CLIENT] or ""
    assert error.startswith("wrong reply: ") and re.search(why, error), error
    assert [exchange.received is None for exchange in shown[0]] == [False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_reply_stops_the_run(name: str) -> None:
    wrong, why = WRONG[name]
    line = rf"^round 1, client {CLIENT}: (?=wrong reply: )(?=.*{why})"
    with pytest.raises(ClientFailure, match=line) as caught:
        run(wrong, on_failure="stop")
    assert "\n" not in str(caught.value)


def test_a_step_out_of_all_bounds_is_its_clients_failure() -> None:
    wrong = array(lambda a: np.full(a.shape, 3e38, np.float32))  # finite, and 1.2e39 is not
    _, shown = run(wrong, learning_rate=4.0)
    assert [exchange.client for exchange in shown[0] if exchange.error] == [CLIENT]
    line = rf"^round 1, client {CLIENT}: wrong reply: its 'a.weight' is so large, 3e\+38, that"
    with pytest.raises(ClientFailure, match=line):
        run(wrong, on_failure="stop", learning_rate=4.0)


@pytest.mark.parametrize(
    ("sent", "update", "step", "fits"),
    [
        (1e38, 2.4e38, 1.0, True),
        (1e38, 2.5e38, 1.0, False),  # 3.5e38, above 3.403e38
        (1e38, -2.5e38, -1.0, False),
        (-1e38, 2.5e38, 1.0, True),
        (3.4e38, 1e28, 1.0, True),
        (3.4028234e38, 1e32, 1.0, False),
        (3e38, -2e38, -1.0, False),  # weights: what moved by 5e38
        (0.0, 65504.0, 1e34, False),
        (0.0, 65504.0, 1e33, True),
    ],
)
def test_what_was_sent_is_finite_after_a_step(
    sent: float, update: float, step: float, fits: bool
) -> None:
    moves, weights = (Array(np.array([0.5, value], np.float32)) for value in (update, sent))
    with pytest.raises(MalformedMessage) if not fits else nullcontext():
        check_array("w", moves, weights, step)


def test_a_step_within_the_bounds_is_taken() -> None:
    reported, shown = run(array(lambda a: np.full(a.shape, 3e37, np.float32)), learning_rate=1.1)
    assert not any(exchange.error for exchange in shown[0])
    moved = reported[1].parameters["a.weight"] / -1.1e37  # a third of 1.1 * 3e37
    assert torch.allclose(moved, torch.ones(2))


@pytest.mark.parametrize("name", ["\ud800", "\0", "a" * 201], ids=ascii)
def test_a_metric_that_no_capture_could_hold_is_wrong(name: str) -> None:
    odd = towards(TARGETS[0], kind="gradient")(asked())
    assert isinstance(odd, RecordDict)
    metrics(**{name: 1.0})(odd)
    with pytest.raises(MalformedMessage, match="names of at most 200 printable letters"):
        check_metrics(odd, usual_metrics([odd]))


SLOW = ("bulyan", "qfedavg")  # Flower looks for garbage at every reply
STOCK = ["fedavg", "fedmedian", "krum", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)]


@pytest.mark.parametrize("strategy", STOCK)
def test_weights_count_in_whatever_order_and_precision_they_come(strategy: str) -> None:
    def stock(change: Wrong) -> Wrong:
        def weighed(reply: RecordDict) -> None:
            del reply[UPDATE]
            change(reply)

        return weighed

    def otherwise(reply: RecordDict) -> None:
        turned = {k: Array(a.numpy().astype(float)) for k, a in reply.array_records[ARRAYS].items()}
        del reply[ARRAYS]
        reply["theirs"] = ArrayRecord(dict(reversed(turned.items())))

    more = {"qfedavg": {"client_learning_rate": 0.5}}.get(strategy, {})
    how = {"strategy": strategy, "strategy_options": more, "config": {}}
    straight, _ = run(stock(lambda _: None), **how)
    got, _ = run(stock(otherwise), **how)
    assert same(dict(got[-1].parameters), dict(straight[-1].parameters))


def asked() -> Message:
    content = RecordDict({"arrays": to_arrays(weights(0)), "config": ConfigRecord()})
    return Message(content, 1, "train")


def test_the_usual_metrics_are_those_of_most_or_of_a_client_of_ours() -> None:
    def reply(wrong: Wrong | None = None) -> RecordDict:
        made = towards(TARGETS[0], kind="gradient")(message)
        assert isinstance(made, RecordDict)
        if wrong is not None:
            wrong(made)
        return made

    message = asked()
    more, less, none = metrics(more=1.0), metrics(train_loss=None), metrics(num_examples=None)
    ours = ("metrics.num-examples", "metrics.train_loss")
    assert usual_metrics([reply(more), reply()]) == ours
    assert usual_metrics([reply(less), reply()]) == ours
    assert usual_metrics([reply(none), reply(none), reply()]) == ours
    assert usual_metrics([reply(less), reply(), reply(less)]) == ours[:1]  # as under DP
    assert usual_metrics([reply(more), reply(more), reply()]) == ("metrics.more", *ours)
    assert usual_metrics([]) == ours[:1]
