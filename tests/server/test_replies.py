"""Wrong replies: each is its client's failure, and nothing else of the run is another."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

from fedsim.errors import ClientFailure
from fedsim.wire import to_arrays
from server import Exchange, Progress, ServerSettings, build_server_app
from server.replies import usual_metrics
from tests.server.conftest import Answer, towards, weights
from tests.server.toys import partitioned, same
from tests.server.wrong import WRONG, Wrong, metrics, raising

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


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_reply_stops_the_run(name: str) -> None:
    wrong, why = WRONG[name]
    line = rf"^round 1, client {CLIENT}: (?=wrong reply: )(?=.*{why})"
    with pytest.raises(ClientFailure, match=line) as caught:
        run(wrong, on_failure="stop")
    assert "\n" not in str(caught.value)


def test_the_usual_metrics_are_those_of_most_or_of_a_client_of_ours() -> None:
    def reply(wrong: Wrong | None = None) -> RecordDict:
        made = towards(TARGETS[0], kind="gradient")(message)
        assert isinstance(made, RecordDict)
        if wrong is not None:
            wrong(made)
        return made

    content = RecordDict({"arrays": to_arrays(weights(0)), "config": ConfigRecord()})
    message = Message(content, 1, "train")
    more, less, none = metrics(more=1.0), metrics(train_loss=None), metrics(num_examples=None)
    ours = ("metrics.num-examples", "metrics.train_loss")
    assert usual_metrics([reply(more), reply()]) == ours
    assert usual_metrics([reply(less), reply()]) == ours
    assert usual_metrics([reply(none), reply(none), reply()]) == ours
    assert usual_metrics([reply(less), reply(), reply(less)]) == ours[:1]  # as under DP
    assert usual_metrics([reply(more), reply(more), reply()]) == ("metrics.more", *ours)
    assert usual_metrics([]) == ours[:1]
