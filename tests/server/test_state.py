from typing import Any

import pytest
from flwr.serverapp.strategy import FedAvg

from fedsim.wire import to_arrays, to_tensors
from server import PartitionedGrid
from server.state import load_state, save_state
from server.strategies import Driven, FromUpdates, make_strategy, uniform
from tests.server.conftest import ToyGrid, towards, weights
from tests.server.toys import partitioned, same

OPTIONS: dict[str, dict[str, Any]] = {
    "fedadagrad": {},
    "fedadam": {"eta": 0.05},
    "fedavgm": {"server_momentum": 0.9, "server_learning_rate": 0.7},
    "fedyogi": {"eta": 0.05},
}


def rounds(inner: FedAvg, first: int, count: int, start: Any) -> dict[str, Any]:
    """Run ``count`` rounds from round ``first`` on, with two of three clients; return weights."""
    targets = [weights(seed) for seed in (1, 2, 3)]
    grid: ToyGrid = partitioned(
        {70: 0, 71: 1, 72: 2}, lambda client: towards(targets[client], examples=1 + client)
    )
    driven = Driven(FromUpdates(inner, learning_rate=1.0), uniform(2, seed=4), first_round=first)
    result = driven.start(PartitionedGrid(grid, 3), to_arrays(start), num_rounds=count)
    return to_tensors(result.arrays)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_interrupted_run_gives_the_same_bits(name: str) -> None:
    def fresh() -> FedAvg:
        return make_strategy(name, OPTIONS[name])

    whole = rounds(fresh(), 1, 5, weights(0))
    first = fresh()
    middle = rounds(first, 1, 2, weights(0))
    saved = save_state(first)
    assert saved  # these strategies do keep something
    resumed = fresh()
    load_state(resumed, saved)
    assert same(rounds(resumed, 3, 3, middle), whole)
    # Without the state the rounds differ: that it was loaded is what made them equal.
    assert not same(rounds(fresh(), 3, 3, middle), whole)


def test_what_is_saved_is_a_copy_and_so_is_what_is_loaded() -> None:
    strategy = make_strategy("fedadam", {})
    middle = rounds(strategy, 1, 1, weights(0))
    saved = save_state(strategy)
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    rounds(strategy, 2, 1, middle)
    assert same(saved, kept)
    resumed = make_strategy("fedadam", {})
    load_state(resumed, saved)
    rounds(resumed, 2, 1, middle)
    assert same(saved, kept)


def test_moments_are_saved_by_the_names_of_the_weights() -> None:
    strategy = make_strategy("fedadam", {})
    rounds(strategy, 1, 1, weights(0))
    names = {f"{moment}/{name}" for moment in ("m_t", "v_t") for name in weights(0)}
    assert set(save_state(strategy)) == names  # Adam's two moments, of every weight


def test_a_strategy_without_state_saves_none() -> None:
    strategy = make_strategy("fedavg", {})
    rounds(strategy, 1, 1, weights(0))
    assert save_state(strategy) == {}
    load_state(strategy, {})
