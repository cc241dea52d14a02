"""Descents whose large products are in bfloat16, against the same in float32."""

import contextlib

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from attacks.matching import L2, Cosine, Problem, problem
from attacks.matching.distances import Distance
from attacks.matching.halves import Halves
from tests.attacks.conftest import Look
from tests.conftest import Adapt

WIDE = (200, 192)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem, "has_bfloat16", lambda _: True)


def whole(low: int, high: int, *size: int, seed: int) -> Tensor:
    """Whole numbers small enough for bfloat16 to hold them and their sums exactly."""
    return torch.randint(low, high, size, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("kind", ["linear", "conv1d", "matmul"])
def test_products_and_their_derivatives_are_those_of_float32(kind: str) -> None:
    weight = (whole(0, 100, *WIDE, seed=1) == 0).float()  # two ones a row: sums are exact, too
    bias = whole(-2, 3, WIDE[0], seed=2)
    conv = Conv1D(*WIDE)
    conv.weight.data, conv.bias.data = weight.T.contiguous(), bias

    def derivatives() -> tuple[Tensor, ...]:
        x = whole(-1, 2, 3, WIDE[1], seed=3).requires_grad_()
        if kind == "linear":
            y = functional.linear(x, weight, bias)
        else:
            y = conv(x) if kind == "conv1d" else torch.matmul(x, weight.T)
        slope = whole(-1, 2, *y.shape, seed=4).requires_grad_()
        (first,) = torch.autograd.grad((y * slope).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first * whole(-1, 2, *x.shape, seed=5)).sum(), slope)
        return y.detach(), first.detach(), second

    expected = derivatives()
    mode = Halves()
    with mode:
        got = derivatives()
    assert mode._rounded  # it was taken that way
    for half, exact in zip(got, expected, strict=True):
        assert torch.equal(half, exact)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
def test_a_descent_goes_the_same_way(adapt: Adapt, look: Look, preset: str) -> None:
    batch = look(adapt(preset), (8, 6))
    it = Problem(batch.observation, torch.Generator(), lambda _: Cosine())
    targets = torch.tensor(batch.labels)
    start = it.rescale(it.gaussian(1, torch.Generator().manual_seed(1)))

    def slope() -> tuple[Tensor, Tensor]:
        x = start.clone().requires_grad_()
        distance = it.loss(x, targets)
        return distance.detach(), torch.autograd.grad(distance.sum(), x)[0].flatten()

    (distance, way), it._rounded = slope(), contextlib.nullcontext()
    exact, straight = slope()
    assert distance.item() == pytest.approx(exact.item(), abs=1e-3)
    assert not torch.equal(way, straight)
    assert functional.cosine_similarity(way, straight, dim=0) > 0.995


@pytest.mark.parametrize(("distance", "rounds"), [(Cosine(), True), (L2(), False)])
def test_only_cosines_are_rounded(
    adapt: Adapt, look: Look, distance: Distance, rounds: bool
) -> None:
    batch = look(adapt("bert-tiny"), (8,))
    it = Problem(batch.observation, torch.Generator(), lambda _: distance)
    assert isinstance(it._rounded, Halves) == rounds


def test_logits_over_a_vocabulary_are_not_rounded(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("gpt2-tiny", task="causal-lm"), (8,))
    it = Problem(batch.observation, torch.Generator(), lambda _: Cosine())
    x, head = whole(-9, 9, 4, 192, seed=1) / 7, batch.observation.model.module.lm_head.weight
    with it._rounded:
        assert torch.equal(functional.linear(x, head), x @ head.T)


def test_a_constant_that_is_gone_does_not_lend_its_address() -> None:
    x = whole(-1, 2, 3, 192, seed=1)
    with Halves():
        for seed in range(20):
            matrix = whole(0, 3, 192, 200, seed=seed)
            assert torch.equal(torch.matmul(x, matrix), (x.bfloat16() @ matrix.bfloat16()).float())
            del matrix
