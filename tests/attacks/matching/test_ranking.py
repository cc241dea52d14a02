"""The best of many candidates, most of them sorted out in bfloat16."""

import pytest
import torch
from torch import Tensor

from attacks.matching import L2, Cosine, Problem, least, ranking
from attacks.matching.distances import Distance
from tests.attacks.conftest import Batch, Look
from tests.conftest import Adapt

COUNT = 120


@pytest.fixture
def batch(adapt: Adapt, look: Look) -> Batch:
    return look(adapt("bert-tiny"), (8,))


def problem_of(batch: Batch, distance: Distance) -> Problem:
    return Problem(batch.observation, torch.Generator().manual_seed(1), lambda _: distance)


def orders(batch: Batch, problem: Problem) -> Tensor:
    """Return random orders of the true text, the text itself in place 77."""
    true = problem.engine.embed(batch.ids)[None]
    x = problem.shuffled(true, COUNT - 1, torch.Generator().manual_seed(2))
    x[[0, 77]] = x[[77, 0]]
    return x


@pytest.mark.slow
def test_the_best_is_found_through_bfloat16(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "has_bfloat16", lambda _: True)
    problem = problem_of(batch, Cosine())
    x, targets = orders(batch, problem), torch.tensor(batch.labels)
    place, distance = least(problem, x, targets)
    assert place == 77
    assert distance == pytest.approx(float(problem.score(x, targets)[77]), abs=1e-6)  # in float32


@pytest.mark.slow
def test_targets_of_each_candidate_go_with_it(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "has_bfloat16", lambda _: True)
    problem = problem_of(batch, Cosine())
    x = problem.engine.embed(batch.ids)[None].repeat(COUNT, 1, 1, 1)  # all alike but for the label
    shares = torch.nn.functional.one_hot(torch.tensor(batch.labels), 2).float()  # (B, 2)
    targets = -9 * shares.repeat(COUNT, 1, 1)
    targets[77] = 9 * shares
    assert least(problem, x, targets)[0] == 77


@pytest.mark.slow
def test_what_else_counts_is_added(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "has_bfloat16", lambda _: True)
    problem = problem_of(batch, Cosine())
    x, targets = orders(batch, problem), torch.tensor(batch.labels)
    more = torch.ones(COUNT)
    more[5] = -2.0
    place, total = least(problem, x, targets, more=more)
    assert place == 5
    assert total == pytest.approx(float(problem.score(x, targets)[5]) - 2.0, abs=1e-6)


def test_differences_of_large_numbers_stay_in_float32(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "has_bfloat16", lambda _: True)
    problem = problem_of(batch, L2())
    x, targets = orders(batch, problem), torch.tensor(batch.labels)
    monkeypatch.setattr(torch, "autocast", None)
    assert least(problem, x, targets)[0] == int(problem.score(x, targets).argmin()) == 77
