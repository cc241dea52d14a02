from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict

from fedsim.errors import ClientFailure, RunFailed
from fedsim.wire import read_broadcast
from server import Exchange, Progress, ServerSettings, build_server_app
from tests.server.conftest import Answer, ToyGrid, towards, weights
from tests.server.toys import partitioned, same, settings

TARGETS = [weights(seed) for seed in (1, 2, 3, 4)]


def run(
    how: ServerSettings, start: Progress, *, broken: dict[int, Answer] | None = None
) -> tuple[list[Progress], list[Sequence[Exchange]]]:
    """Run the app on a grid of toy clients; return what it reported and what it showed."""
    reported: list[Progress] = []
    shown: list[Sequence[Exchange]] = []
    app = build_server_app(how, start, [shown.append], reported.append)
    nodes = {90 - client: client for client in range(how.clients)}
    answers = {client: towards(TARGETS[client]) for client in range(how.clients)} | (broken or {})
    grid: ToyGrid = partitioned(nodes, lambda client: answers[client])
    app(grid, Context(1, 0, {}, RecordDict(), {}))
    return reported, shown


def test_it_reports_the_start_and_every_round() -> None:
    start = Progress(round=0, parameters=weights(0))
    reported, shown = run(settings(config={"algorithm": "fedavg", "learning_rate": 0.1}), start)
    assert [progress.round for progress in reported] == [0, 1, 2, 3]
    assert same(dict(reported[0].parameters), weights(0))
    assert [[exchange.round for exchange in round_] for round_ in shown] == [
        [1] * 3,
        [2] * 3,
        [3] * 3,
    ]
    for row, round_ in enumerate(shown):  # each round starts at what the last one ended with
        broadcast = read_broadcast(round_[0].sent, row + 1)
        assert same(dict(broadcast.parameters), dict(reported[row].parameters))
        assert broadcast.config["learning_rate"] == 0.1


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_run_goes_on_from_what_it_reported(strategy: str) -> None:
    how = settings(strategy=strategy)
    whole, shown = run(how, Progress(round=0, parameters=weights(0)))
    for done in (1, 2):
        again, late = run(how, whole[done])
        assert [progress.round for progress in again] == list(range(done, 4))
        for later, other in zip(again, whole[done:], strict=True):
            assert same(dict(later.parameters), dict(other.parameters))
            assert same(dict(later.strategy), dict(other.strategy))
        assert [[e.client for e in r] for r in late] == [
            [e.client for e in r] for r in shown[done:]
        ]


def test_fedprox_tells_its_clients_mu() -> None:
    how = settings(strategy="fedprox", strategy_options={"proximal_mu": 0.25}, rounds=1)
    _, shown = run(how, Progress(round=0, parameters=weights(0)))
    assert read_broadcast(shown[0][0].sent, 1).config["proximal_mu"] == 0.25


def test_the_learning_rate_is_that_of_the_step_along_gradients() -> None:
    start = Progress(round=0, parameters=weights(0))
    gradient = {0: towards(TARGETS[0], kind="gradient")}
    how = settings(clients=1, clients_per_round=1, rounds=1, learning_rate=0.25)
    reported, _ = run(how, start, broken=gradient)
    for name, w in weights(0).items():  # one client, so w - lr * (w - target)
        expected = w.double() - 0.25 * (w - TARGETS[0][name]).double()
        assert (reported[1].parameters[name] - expected).abs().max() < 1e-6


@pytest.mark.slow
def test_a_round_without_an_aggregate_is_told_or_ends_the_run() -> None:
    def late(message: Message) -> RecordDict | Error | None:
        config = message.content.config_records["config"]
        return None if config["server-round"] == 2 else towards(TARGETS[2])(message)

    start = Progress(round=0, parameters=weights(0))
    # Of two, Flower's Bulyan makes nothing, and says so at a level that nobody reads.
    how = settings(strategy="bulyan", clients=3, on_failure="continue")
    reported, _ = run(how, start, broken={2: late})
    assert [progress.stayed for progress in reported] == [False, False, True, False]
    last, stayed, moved = (dict(progress.parameters) for progress in reported[1:])
    assert same(last, stayed) and not same(stayed, moved)
    few = replace(how, clients_per_round=2, on_failure="stop")
    with pytest.raises(RunFailed, match=r"^round 1: the strategy made no aggregate of the 2 repl"):
        run(few, start)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_central_dp_goes_on_without_a_client(failing: int) -> None:
    start = Progress(round=0, parameters=weights(0))
    how = settings(
        clients=3, on_failure="continue", central={"noise_multiplier": 0.0, "clipping_norm": 1e3}
    )
    plain = replace(how, central=None)
    broken: dict[int, Answer] = {failing: lambda _: Error(2, "ValueError: no more text")}
    noised, _ = run(how, start, broken=broken)
    expected, _ = run(plain, start, broken=broken)
    assert len(noised) == 4 and not any(progress.stayed for progress in noised)
    for got, wanted in zip(noised, expected, strict=True):
        for name, tensor in wanted.parameters.items():
            torch.testing.assert_close(got.parameters[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_failing_client_stops_the_run_or_is_left_out() -> None:
    def broken(_: object) -> Error:
        return Error(2, "ValueError: no more text")

    start = Progress(round=0, parameters=weights(0))
    everyone = {"clients_per_round": 4, "rounds": 2}
    with pytest.raises(ClientFailure, match="round 1, client 2: ValueError: no more text"):
        run(settings(on_failure="stop", **everyone), start, broken={2: broken})
    reported, shown = run(settings(on_failure="continue", **everyone), start, broken={2: broken})
    assert [progress.round for progress in reported] == [0, 1, 2]
    assert [exchange.client for exchange in shown[1] if exchange.error] == [2]
    for name, w in weights(0).items():  # the other three went half the way, equally weighted
        mean = sum(TARGETS[client][name].double() for client in (0, 1, 3)) / 3
        assert (reported[1].parameters[name] - (w.double() + mean) / 2).abs().max() < 1e-6
