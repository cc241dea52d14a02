"""The learning rate of each round, against FlowerTune's formula, and where it goes."""

import math

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedsim.messages import Update
from fedsim.wire import to_arrays, update_content
from server import PartitionedGrid
from server.rates import RoundRates
from server.strategies import Driven, FromUpdates, make_strategy, uniform
from tests.server.conftest import weights
from tests.server.toys import partitioned

START, GRADIENT = weights(0), weights(1)


def test_cosine_over_rounds_is_flowertunes() -> None:
    """Its templates': 200 rounds from 5e-5 down to 1e-6."""
    rates = RoundRates(first=5e-5, last=1e-6, rounds=200, scheduler="cosine")
    for round_ in (1, 50, 100, 200):
        wanted = 1e-6 + 0.5 * (5e-5 - 1e-6) * (1 + math.cos(math.pi * round_ / 200))
        assert rates.at(round_) == pytest.approx(wanted, rel=1e-12)
    assert rates.at(200) == 1e-6


def test_linear_ends_at_the_last_and_constant_stays() -> None:
    rates = RoundRates(first=1.0, last=0.2, rounds=4, scheduler="linear")
    assert [rates.at(round_) for round_ in (1, 2, 3, 4)] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert {RoundRates(first=0.3, rounds=4).at(round_) for round_ in (1, 4)} == {0.3}


def test_clients_are_told_their_rounds_rate_and_gradients_take_it() -> None:
    """From round 3 on, as a resumed run does: each round's step along the mean gradient."""
    told: list[float] = []

    def answer(message: Message) -> RecordDict:
        rate = message.content.config_records["config"]["learning_rate"]
        assert isinstance(rate, float)
        told.append(rate)
        return update_content(Update(tensors=GRADIENT, kind="gradient", num_examples=1))

    grid = partitioned({1: 0, 2: 1}, lambda _: answer)
    rates = RoundRates(first=1.0, last=0.0, rounds=5, scheduler="linear")
    driven = Driven(
        FromUpdates(make_strategy("fedavg", {}), learning_rate=9.0),
        uniform(2, seed=8), first_round=3, rate=rates.at,
    )  # fmt: skip
    config = ConfigRecord({"learning_rate": 1.0})
    partitions = PartitionedGrid(grid, 2)
    made = driven.start(partitions, to_arrays(START), num_rounds=2, train_config=config)
    assert told == pytest.approx([0.4, 0.4, 0.2, 0.2])
    for name, array in made.arrays.items():
        wanted = START[name] - (0.4 + 0.2) * GRADIENT[name]
        assert array.numpy() == pytest.approx(wanted.numpy(), abs=1e-6)
