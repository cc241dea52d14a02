import itertools
import random
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from flwr.serverapp import strategy
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from fedsim.errors import BadInput, MalformedMessage
from fedsim.messages import Update, UpdateKind
from fedsim.wire import to_arrays, to_tensors, update_content
from server import PartitionedGrid
from server.strategies import STRATEGIES, Driven, FromUpdates, make_strategy, uniform
from tests.server.conftest import Answer, ToyGrid, towards, weights
from tests.server.toys import partitioned

START = weights(0)
EXAMPLES = (1, 7, 4)  # of three clients: not equal, so an unweighted mean would be seen
UPDATES = [weights(seed) for seed in (1, 2, 3)]


def everyone() -> FedAvg:
    return make_strategy("fedavg", {})


def update(tensors: dict[str, Tensor], kind: UpdateKind, examples: int) -> RecordDict:
    return update_content(Update(tensors=tensors, kind=kind, num_examples=examples))


def aggregate(
    inner: strategy.Strategy, contents: Sequence[RecordDict | Error], rate: float = 0.3
) -> dict[str, np.ndarray[Any, Any]]:
    """One round from START in which client i answers ``contents[i]``."""
    nodes: dict[int, Answer] = {i: (lambda _, c=c: c) for i, c in enumerate(contents)}  # type: ignore[misc]
    grid = ToyGrid(nodes)
    wrapped = FromUpdates(inner, learning_rate=rate)
    messages = wrapped.configure_train(1, to_arrays(START), ConfigRecord(), grid)
    arrays, _ = wrapped.aggregate_train(1, grid.send_and_receive(messages))
    assert arrays is not None
    assert list(arrays) == list(START)
    return {name: array.numpy() for name, array in arrays.items()}


def closed_form(step: float, updates: list[dict[str, Tensor]] = UPDATES) -> dict[str, Any]:
    """w + step * sum(n_i u_i) / sum(n_i), in float64."""
    total = sum(EXAMPLES)
    return {
        name: START[name].double().numpy()
        + step
        * sum(n / total * u[name].double().numpy() for n, u in zip(EXAMPLES, updates, strict=True))
        for name in START
    }


def agree(got: dict[str, np.ndarray[Any, Any]], expected: dict[str, Any]) -> None:
    for name, array in got.items():
        assert array.dtype == np.float32
        # Weights of size 1 in float32: a rounding each for three clients and two sums.
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-6)


# Gradients and deltas become weights


@pytest.mark.parametrize(("kind", "step"), [("gradient", -0.3), ("delta", 1.0)])
def test_updates_are_averaged_by_examples(kind: UpdateKind, step: float) -> None:
    contents = [update(u, kind, n) for u, n in zip(UPDATES, EXAMPLES, strict=True)]
    agree(aggregate(everyone(), contents), closed_form(step))


def test_half_precision_updates_leave_the_weights_in_full_precision() -> None:
    halves = [{name: t.half() for name, t in u.items()} for u in UPDATES]
    contents = [update(u, "delta", n) for u, n in zip(halves, EXAMPLES, strict=True)]
    # The closed form over the rounded updates: weights rounded to half would be 5e-4 away.
    agree(aggregate(everyone(), contents), closed_form(1.0, halves))


def test_double_weights_stay_double() -> None:
    contents = [update(UPDATES[0], "delta", 1)]
    grid = ToyGrid({1: lambda _: contents[0]})
    wrapped = FromUpdates(everyone(), learning_rate=1.0)
    sent = to_arrays({name: t.double() / 3 for name, t in START.items()})
    messages = wrapped.configure_train(1, sent, ConfigRecord(), grid)
    arrays, _ = wrapped.aggregate_train(1, grid.send_and_receive(messages))
    assert arrays is not None
    for name, got in arrays.items():
        expected = START[name].double().numpy() / 3 + UPDATES[0][name].double().numpy()
        assert got.numpy().dtype == np.float64
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-15)


def test_a_failed_client_does_not_count() -> None:
    contents: list[RecordDict | Error] = [
        update(u, "delta", n) for u, n in zip(UPDATES, EXAMPLES, strict=True)
    ]
    contents[1] = Error(2, "boom")  # 7 of the 12 examples
    expected = {
        name: START[name].double().numpy()
        + (1 * UPDATES[0][name] + 4 * UPDATES[2][name]).double().numpy() / 5
        for name in START
    }
    agree(aggregate(everyone(), contents), expected)


def test_stock_clients_send_weights_which_are_averaged_as_they_are() -> None:
    metrics = [MetricRecord({"num-examples": n}) for n in EXAMPLES]
    contents = [
        RecordDict({"arrays": to_arrays(u), "metrics": m})
        for u, m in zip(UPDATES, metrics, strict=True)
    ]
    zero = {name: np.zeros(t.shape) for name, t in START.items()}
    expected = closed_form(1.0)
    for name, start in START.items():  # the mean of the weights alone
        zero[name] = expected[name] - start.double().numpy()
    agree(aggregate(everyone(), contents), zero)


def test_an_update_of_unknown_kind_is_an_error() -> None:
    content = update(UPDATES[0], "delta", 1)
    content.config_records["fedsim.update"]["kind"] = "wisdom"
    with pytest.raises(MalformedMessage, match="must be gradient or delta, got 'wisdom'"):
        aggregate(everyone(), [content])


def test_nobody_left_leaves_no_arrays() -> None:
    wrapped = FromUpdates(everyone(), learning_rate=1.0)
    grid = ToyGrid({1: lambda _: Error(2, "boom")})
    messages = wrapped.configure_train(1, to_arrays(START), ConfigRecord(), grid)
    assert wrapped.aggregate_train(1, grid.send_and_receive(messages))[0] is None


def test_metrics_are_averaged_by_examples() -> None:
    nodes = {
        i: towards(target, examples=n)
        for i, (target, n) in enumerate(zip(UPDATES, EXAMPLES, strict=True))
    }
    grid = ToyGrid(nodes)
    wrapped = FromUpdates(everyone(), learning_rate=1.0)
    messages = wrapped.configure_train(1, to_arrays(START), ConfigRecord(), grid)
    _, metrics = wrapped.aggregate_train(1, grid.send_and_receive(messages))
    losses = [sum((START[k] - t[k]).square().sum().item() / 2 for k in START) for t in UPDATES]
    expected = sum(n * x for n, x in zip(EXAMPLES, losses, strict=True)) / sum(EXAMPLES)
    assert metrics is not None
    assert metrics["train_loss"] == pytest.approx(expected, rel=1e-6)


# Flower's strategies by name

NEEDED = {"qfedavg": {"client_learning_rate": 0.5}}  # an option without a default


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("kind", ["gradient", "delta"])
def test_every_strategy_gets_closer_to_the_clients_optimum(name: str, kind: str) -> None:
    # Five clients with optima close together, far away: whatever is averaged, trimmed or left
    # out, and however the server steps, one round must shorten the way.
    far = {key: 20 + tensor for key, tensor in weights(9).items()}
    targets = [{k: far[k] + 0.01 * t for k, t in weights(10 + i).items()} for i in range(5)]
    grid = ToyGrid({i: towards(t, kind=kind, examples=3) for i, t in enumerate(targets)})
    wrapped = FromUpdates(make_strategy(name, NEEDED.get(name, {})), learning_rate=0.5)
    messages = wrapped.configure_train(1, to_arrays(START), ConfigRecord(), grid)
    arrays, _ = wrapped.aggregate_train(1, grid.send_and_receive(messages))
    assert len(grid.asked) == 5  # every client it is shown takes part
    assert arrays is not None
    assert list(arrays) == list(START)
    for key, tensor in to_tensors(arrays).items():
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
        assert (tensor - far[key]).norm() < (START[key] - far[key]).norm()


def test_the_table_names_flowers_classes() -> None:
    # The FedAvg family of Flower 1.41, facts: FedXgb* is no neural network's, DP wrappers wrap.
    expected = {
        *("bulyan", "fedadagrad", "fedadam", "fedavg", "fedavgm", "fedmedian", "fedprox"),
        *("fedtrimmedavg", "fedyogi", "krum", "multikrum", "qfedavg"),
    }
    assert set(STRATEGIES) == expected


def test_options_reach_the_strategy() -> None:
    assert cast(Any, make_strategy("fedadam", {"eta": 0.25})).eta == 0.25


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("fedavgg", {}, "unknown strategy 'fedavgg'; did you mean 'fedavg'"),
        ("", {}, "unknown strategy ''"),
        ("fedavg", {"eta": 0.1}, "federation.strategy_options: fedavg: .*'eta'"),
        ("qfedavg", {}, "federation.strategy_options: qfedavg: .*client_learning_rate"),
        ("fedtrimmedavg", {"beta": "x"}, "federation.strategy_options: fedtrimmedavg"),
        ("fedadam", {"eta": "fast"}, "federation.strategy_options: fedadam"),
    ],
)
def test_what_a_strategy_cannot_be_made_of_is_bad_input(
    name: str, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(BadInput, match=line):
        make_strategy(name, options)


@pytest.mark.slow
def test_bulyan_averages_no_fewer_clients_than_it_is_made_for() -> None:
    for count, moves in ((7, True), (6, False)):
        grid = ToyGrid({i: towards(weights(i + 1), examples=3) for i in range(count)})
        made = FromUpdates(make_strategy("bulyan", {"num_malicious_nodes": 1}), learning_rate=0.5)
        messages = made.configure_train(1, to_arrays(START), ConfigRecord(), grid)
        arrays, _ = made.aggregate_train(1, grid.send_and_receive(messages))
        assert (arrays is not None) == moves


# Who takes part, and in which order


def run(
    grid: ToyGrid, per_round: int, rounds: int, *, first: int = 1, start: Any = START
) -> tuple[list[list[int]], ArrayRecord]:
    """Run rounds under Flower's own loop; return who took part in each, and the weights."""
    driven = Driven(
        FromUpdates(everyone(), learning_rate=0.5), uniform(per_round, seed=8), first_round=first
    )
    result = driven.start(
        PartitionedGrid(grid, len(grid.nodes)), to_arrays(start), num_rounds=rounds
    )
    told = sorted({round_ for round_, _ in grid.trained if round_ is not None})
    assert told == list(range(first, first + rounds))
    return [[node for r, node in grid.trained if r == round_] for round_ in told], result.arrays


def test_selections_and_weights_do_not_depend_on_node_ids() -> None:
    ids = [[11, 22, 33, 44, 55], [9, 1, 7, 3, 5], [105, 104, 103, 102, 101]]
    results = []
    for place, nodes in enumerate(ids):
        random.seed(place)  # Flower's own sampling draws from it
        partition = {node: client for client, node in enumerate(nodes)}
        order = sorted(nodes, key=lambda node: hash((node, 5)))  # as they register
        shuffled = {node: partition[node] for node in order}
        grid = partitioned(shuffled, lambda client: towards(UPDATES[client % 3], examples=1))
        taken, arrays = run(grid, per_round=3, rounds=6)
        clients = [[partition[node] for node in round_] for round_ in taken]
        results.append((clients, {name: array.data for name, array in arrays.items()}))
    assert results[0] == results[1] == results[2]
    rounds = results[0][0]
    assert all(len(set(clients)) == 3 and clients == sorted(clients) for clients in rounds)
    assert len(set(map(tuple, rounds))) > 1  # not the same three each time


def test_uniform_takes_every_client_equally_often() -> None:
    taken = [client for round_ in range(1, 2001) for client in uniform(2, seed=3)(round_, 5)]
    # 2000 rounds, 2 of 5: 800 each, give or take 4 standard deviations of sqrt(2000 * .4 * .6).
    counts = [taken.count(client) for client in range(5)]
    assert all(abs(count - 800) < 4 * 22 for count in counts)
    assert sum(counts) == 4000


def test_uniform_follows_the_seed_alone() -> None:
    def draws(seed: int) -> list[Sequence[int]]:
        return [uniform(2, seed)(round_, 9) for round_ in range(1, 20)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert uniform(9, seed=1)(4, 9) == list(range(9))


def test_a_float_sum_does_not_depend_on_the_order_of_arrival() -> None:
    # In float32 1e8 + 1 - 1e8 is 0 or 1, by the order.
    values = [1e8, 1.0, -1e8]
    contents = [update({"w": torch.full((2,), v)}, "delta", 1) for v in values]
    naive = {
        float(np.float32(a) + np.float32(b) + np.float32(c))
        for a, b, c in itertools.permutations(values)
    }
    assert len(naive) > 1
    results = set()
    for arrival in itertools.permutations(range(3)):
        driven = Driven(everyone(), lambda round_, clients: range(clients))
        grid = partitioned(dict(enumerate(range(3))), lambda client: lambda _: contents[client])
        listed = PartitionedGrid(grid, 3)
        sent = to_arrays({"w": torch.zeros(2)})
        messages = list(driven.configure_train(1, sent, ConfigRecord(), listed))
        replies = list(listed.send_and_receive(messages))
        arrays, _ = driven.aggregate_train(1, [replies[place] for place in arrival])
        assert arrays is not None
        results.add(arrays["w"].data)
    assert len(results) == 1


def test_a_resumed_run_goes_on_with_the_next_round() -> None:
    def grid() -> ToyGrid:
        nodes = {70 + client: client for client in range(5)}
        return partitioned(nodes, lambda client: towards(UPDATES[client % 3], examples=1 + client))

    whole, arrays = run(grid(), per_round=2, rounds=5)
    before, middle = run(grid(), per_round=2, rounds=2)
    after, resumed = run(grid(), per_round=2, rounds=3, first=3, start=to_tensors(middle))
    assert before + after == whole
    assert {k: a.data for k, a in arrays.items()} == {k: a.data for k, a in resumed.items()}


def test_the_resumed_round_is_the_one_that_clients_are_told() -> None:
    grid = partitioned({1: 0}, lambda client: towards(UPDATES[0]))
    run(grid, per_round=1, rounds=2, first=4)
    assert grid.trained == [(4, 1), (5, 1)]


def test_a_round_may_pick_nobody() -> None:
    grid = partitioned({1: 0}, lambda client: towards(UPDATES[0]))
    driven = Driven(everyone(), lambda round_, clients: [0] if round_ == 2 else [])
    result = driven.start(PartitionedGrid(grid, 1), to_arrays(START), num_rounds=3)
    assert grid.trained == [(2, 1)]
    assert result.arrays  # round 2's


def test_clients_are_asked_to_train_only() -> None:
    grid = partitioned({1: 0, 2: 1}, lambda client: towards(UPDATES[client]))
    run(grid, per_round=2, rounds=2)
    assert {message.metadata.message_type for message in grid.asked} == {"query", "train"}


@pytest.mark.slow
def test_what_goes_in_comes_back_as_it_was() -> None:
    sent = to_arrays(START)
    before = {name: array.data for name, array in sent.items()}
    wrapped = FromUpdates(make_strategy("qfedavg", NEEDED["qfedavg"]), learning_rate=0.5)
    grid = ToyGrid({i: towards(target) for i, target in enumerate(UPDATES)})
    messages = wrapped.configure_train(1, sent, ConfigRecord(), grid)
    wrapped.aggregate_train(1, grid.send_and_receive(messages))
    assert {name: array.data for name, array in sent.items()} == before
    assert isinstance(sent["w.bias"], Array)
