"""Central DP where clients fail: what is averaged is noised for as many as it is the mean of."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Error, RecordDict

from fedsim.messages import Update
from fedsim.wire import to_arrays, update_content
from server.central import central
from server.strategies import FromUpdates, make_strategy
from tests.server.conftest import ToyGrid

SIZE = 40_000


def moved_by(contents: Sequence[RecordDict | Error], clients: int, noise: float) -> np.ndarray:
    """One round from zeros, clipped to 2: what the weights move by."""
    options = {"noise_multiplier": noise, "clipping_norm": 2.0}
    noised = central(make_strategy("fedavg", {}), options, clients, seed=3)
    wrapped = FromUpdates(noised, learning_rate=1.0)
    grid = ToyGrid({i: (lambda _, c=c: c) for i, c in enumerate(contents)})  # type: ignore[misc]
    start = to_arrays({"w": torch.zeros(SIZE)})
    messages = wrapped.configure_train(1, start, ConfigRecord(), grid)
    arrays, _ = wrapped.aggregate_train(1, grid.send_and_receive(messages))
    assert arrays is not None
    return arrays["w"].numpy()


def delta(first: float) -> RecordDict:
    tensor = torch.zeros(SIZE)
    tensor[0] = first
    return update_content(Update(tensors={"w": tensor}, kind="delta", num_examples=1))


def test_a_client_that_failed_is_not_in_the_mean() -> None:
    moved = moved_by([delta(1.0), Error(2, "boom"), delta(8.0)], 3, 0.0)
    assert moved[0] == pytest.approx((1.0 + 2.0) / 2) and not moved[1:].any()


@pytest.mark.parametrize("failed", [0, 1, 2])
def test_the_noise_is_that_of_a_mean_of_those_who_answered(failed: int) -> None:
    # z clip / K, with K those in the mean: each moves it by up to clip / K. Of 40,000 draws the
    # deviation is off by 0.35 %, one standard deviation.
    contents = [delta(0.0)] * (3 - failed) + [Error(2, "boom")] * failed
    expected = 0.5 * 2.0 / (3 - failed)
    assert moved_by(contents, 3, 0.5).std() == pytest.approx(expected, rel=0.02)


def test_updates_that_move_nothing_are_averaged() -> None:
    assert not moved_by([delta(0.0)] * 2, 2, 0.0).any()


def test_nobody_left_leaves_no_arrays() -> None:
    with pytest.raises(AssertionError):
        moved_by([Error(2, "boom")], 1, 1.0)
