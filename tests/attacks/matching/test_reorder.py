"""Rearrangements of a sentence, with a gradient and a language model that disagree."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from attacks.matching import Cosine, Problem, Reorder
from fedsim.types import Tokens
from tests.attacks.conftest import Look
from tests.conftest import Adapt


class Dislikes:
    """A prior that finds any text likelier than one."""

    def __init__(self, text: Tokens) -> None:
        self.text = text

    def nats(self, texts: Sequence[Tokens]) -> Tensor:
        return torch.tensor([90.0 if text == self.text else 9.0 for text in texts])


@pytest.mark.parametrize(("relative", "stays"), [(True, True), (False, False)])
def test_no_prior_overrules_a_gradient_that_is_matched(
    adapt: Adapt, look: Look, relative: bool, stays: bool
) -> None:
    batch = look(adapt("bert-tiny"), (8,))
    problem = Problem(batch.observation, torch.Generator(), lambda _: Cosine())
    x, targets = problem.engine.embed(batch.ids)[None], problem.first_targets(1)
    prior = cast(Any, Dislikes(tuple(batch.ids[0].tolist())))
    it = Reorder(problem=problem, tries=60, weight=0.2, prior=prior, relative=relative)
    ordered, _ = it.best(x, targets, None, torch.Generator().manual_seed(1))
    assert torch.equal(ordered, x) == stays


def test_a_prior_decides_where_the_gradient_does_not(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (8,))
    problem = Problem(batch.observation, torch.Generator(), lambda _: Cosine())
    ids = batch.ids.clone()
    ids[0, 1:-1] = torch.tensor([900, 901, 902, 903, 904, 905])  # far from the truth
    x, targets = problem.engine.embed(ids)[None], problem.first_targets(1)
    prior = cast(Any, Dislikes(tuple(ids[0].tolist())))
    it = Reorder(problem=problem, tries=60, weight=0.2, prior=prior, relative=True)
    assert not torch.equal(it.best(x, targets, None, torch.Generator().manual_seed(1))[0], x)
