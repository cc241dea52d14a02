"""Adam's clock: the closed form, and the client's own steps and positions."""

from typing import Any

import pytest
import torch

from attacks.reads import moved_rows, read_clock
from attacks.reads.clock import clock
from fedsim.training import TrainingSettings
from tests.attacks.conftest import Look
from tests.conftest import Adapt

ADAM: dict[str, Any] = {"algorithm": "fedavg", "optimizer": "adamw", "learning_rate": 1e-4}


def amount(step: int, steps: int) -> float:
    """Adam's algorithm 1 by hand, for a gradient of 1 in one step and 0 in all others."""
    total: float = sum(
        0.1 * 0.9 ** (t - step) / (1 - 0.9**t)
        / (0.001 * 0.999 ** (t - step) / (1 - 0.999**t)) ** 0.5
        for t in range(step, steps + 1)
    )  # fmt: skip
    return total


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_the_clock_is_the_closed_form(steps: int) -> None:
    told = clock(TrainingSettings(**ADAM), steps) / ADAM["learning_rate"]
    expected = [amount(step, steps) for step in range(1, steps + 1)]
    # AdamW's decay shrinks what has moved by 1e-6 a step
    assert told.tolist() == pytest.approx(expected, rel=1e-4)


def test_types_of_one_step_are_dated_and_none_wrongly(adapt: Adapt, look: Look) -> None:
    lengths = (9, 14, 6, 8, 11, 7)
    batch = look(adapt("bert-tiny"), lengths, granted=(), dropout=True, mini_batch_size=2, **ADAM)
    moved = moved_rows(batch.observation)
    told = read_clock(batch.observation, moved)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0)).tolist()  # the client's
    steps: dict[int, set[int]] = {}
    for place, row in enumerate(order):
        for token in batch.sequences[row]:
            steps.setdefault(token, set()).add(place // 2 + 1)
    single = {token: min(some) for token, some in steps.items() if len(some) == 1}
    assert told.steps == 3 and dict(told.step) == single
    assert set(moved.tokens) - set(told.step) == {t for t, some in steps.items() if len(some) > 1}


def test_positions_tell_where_a_token_stood(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (12,), granted=(), mini_batch_size=1, **ADAM)
    told = read_clock(batch.observation, moved_rows(batch.observation))
    (text,) = batch.sequences
    once = [token for token in text if text.count(token) == 1]
    right = sum(told.place[token] == text.index(token) for token in once)
    assert right >= 0.8 * len(once)  # 1 in 12 by chance


@pytest.mark.parametrize(
    "training", [{}, {**ADAM, "optimizer": "sgd"}, {**ADAM, "proximal_mu": 0.1}]
)
def test_without_adam_alone_there_is_no_clock(
    adapt: Adapt, look: Look, training: dict[str, object]
) -> None:
    batch = look(adapt("bert-tiny"), (9, 14), granted=(), **training)
    assert read_clock(batch.observation, moved_rows(batch.observation)).steps == 0


def test_several_epochs_date_nothing(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (9, 14), granted=(), mini_batch_size=1, local_epochs=2, **ADAM)
    told = read_clock(batch.observation, moved_rows(batch.observation))
    assert told.steps == 4 and not told.step  # each was in two of the four
