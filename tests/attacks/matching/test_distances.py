"""Distances against naive loops over the whole gradients, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.matching.distances import (
    L2,
    L2L1,
    Cosine,
    Distance,
    Kept,
    Observed,
    WrongSigns,
    entries,
)
from attacks.matching.factors import joined
from fedsim.models.factors import Factor, Lookups, Outer, Plain

K, N = 3, 5


@pytest.fixture
def factors() -> dict[str, Factor]:
    torch.manual_seed(0)
    d: Any = {"dtype": torch.float64}
    return {
        "linear": Outer(torch.randn(K, N, 7, **d), torch.randn(K, N, 11, **d), False),
        "conv": Outer(torch.randn(K, N, 7, **d), torch.randn(K, N, 4, **d), True),
        "rows": Lookups(torch.randint(6, (K, N)), torch.randn(K, N, 3, **d)),
        "bias": Plain(torch.randn(K, 9, **d)),
    }


SHAPES = {"linear": (11, 7), "conv": (7, 4), "rows": (6, 3), "bias": (9,)}


@pytest.fixture
def observed() -> Observed:
    torch.manual_seed(1)
    return Observed({n: torch.randn(shape, dtype=torch.float64) for n, shape in SHAPES.items()})


def whole(factor: Factor, k: int) -> Tensor:
    """Return a candidate's gradient, one token at a time."""
    if isinstance(factor, Plain):
        return factor.value[k]
    if isinstance(factor, Lookups):
        total = torch.zeros(6, 3, dtype=torch.float64)
        for place, error in zip(factor.ids[k].tolist(), factor.errors[k], strict=True):
            total[place] += error
        return total
    assert isinstance(factor, Outer)
    pairs = zip(factor.inputs[k], factor.errors[k], strict=True)
    total = torch.stack([torch.outer(error, given) for given, error in pairs]).sum(dim=0)
    return total.T if factor.flipped else total


def test_factors_are_the_sums_over_tokens(factors: dict[str, Factor], observed: Observed) -> None:
    for name, factor in factors.items():
        wanted = torch.stack([whole(factor, k) for k in range(K)])
        torch.testing.assert_close(factor.dense(wanted.shape[1:]), wanted)
        torch.testing.assert_close(factor.square(), wanted.square().flatten(1).sum(1))
        inner = (wanted * observed[name]).flatten(1).sum(1)
        torch.testing.assert_close(factor.inner(observed[name]), inner)
        places = torch.tensor([0, 2, 3, 8])
        torch.testing.assert_close(
            entries(factor, places, wanted.shape[1:]), wanted.flatten(1)[:, places]
        )


def test_joined_factors_are_the_sum(factors: dict[str, Factor]) -> None:
    for name, factor in factors.items():
        alone = [
            type(factor)(
                **{n: v[[k]] if isinstance(v, Tensor) else v for n, v in vars(factor).items()}
            )
            for k in range(K)
        ]
        wanted = sum(whole(factor, k) for k in range(K))
        torch.testing.assert_close(joined(alone).dense(torch.Size(SHAPES[name]))[0], wanted)


@pytest.mark.parametrize("distance", [Cosine(), L2(), L2(power=1, weights={"linear": 3.0})])
def test_parameters_of_one_shape_taken_together_are_as_each_alone(distance: Distance) -> None:
    torch.manual_seed(3)
    d: Any = {"dtype": torch.float64}
    shapes = {"linear": (11, 7), "flipped": (7, 11), "bias": (9,), "rows": (6, 3)}
    factors: dict[str, Factor] = {}
    for place in range(3):
        inputs, errors = torch.randn(2, N, 7, **d), torch.randn(2, N, 11, **d)
        factors[f"linear{place}"] = Outer(inputs[:1], errors[:1], False)
        factors[f"flipped{place}"] = Outer(inputs[1:], errors[1:], True)
        factors[f"bias{place}"] = Plain(torch.randn(1, 9, **d))
        factors[f"rows{place}"] = Lookups(torch.randint(6, (1, N)), torch.randn(1, N, 3, **d))
    factors["linear"] = Outer(torch.randn(1, 2, 7, **d), torch.randn(1, 2, 11, **d), False)
    observed = Observed({n: torch.randn(shapes[n.rstrip("012")], **d) for n in factors})
    # two candidates are never taken together
    apart = {
        n: type(factor)(**{k: _twice(v) for k, v in vars(factor).items()})
        for n, factor in factors.items()
    }
    torch.testing.assert_close(distance(factors, observed).expand(2), distance(apart, observed))


def _twice(value: object) -> object:
    return torch.cat([value, value]) if isinstance(value, Tensor) else value


def test_few_entries_of_a_large_map_are_gathered_not_formed() -> None:
    torch.manual_seed(2)
    factor = Outer(torch.randn(2, 3, 40), torch.randn(2, 3, 50), False)
    places = torch.tensor([3, 41, 1999])
    assert 8 * len(places) < 2000
    wanted = factor.dense(torch.Size((50, 40))).flatten(1)[:, places]
    torch.testing.assert_close(entries(factor, places, torch.Size((50, 40))), wanted)


def naive_l2(g: Tensor, o: Tensor) -> float:
    pairs = zip(g.flatten().tolist(), o.flatten().tolist(), strict=True)
    return float(sum((a - b) ** 2 for a, b in pairs))


def naive_l1(g: Tensor, o: Tensor) -> float:
    pairs = zip(g.flatten().tolist(), o.flatten().tolist(), strict=True)
    return float(sum(abs(a - b) for a, b in pairs))


def naive_cosine(g: Tensor, o: Tensor) -> float:
    a, b = g.flatten().tolist(), o.flatten().tolist()
    inner = sum(x * y for x, y in zip(a, b, strict=True))
    return float(1 - inner / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5)


def naive_sign(g: Tensor, o: Tensor, l1: float) -> float:
    size = sum(x * x for x in g.flatten().tolist()) ** 0.5
    wrong = [
        max(0.0, -x / size * (1 if y > 0 else -1))
        for x, y in zip(g.flatten().tolist(), o.flatten().tolist(), strict=True)
    ]
    return float(sum(w * w for w in wrong) + l1 * sum(wrong))


def test_distances_are_the_papers_formulas(factors: dict[str, Factor], observed: Observed) -> None:
    l1 = {"linear": 0.1, "conv": 0.2, "rows": 0.3, "bias": 0.4}
    for k in range(K):
        pairs = {name: (whole(factor, k), observed[name]) for name, factor in factors.items()}
        l2 = sum(naive_l2(*pair) for pair in pairs.values())
        sum_l1 = sum(l1[name] * naive_l1(*pair) for name, pair in pairs.items())
        root = sum(naive_l2(*pair) ** 0.5 for pair in pairs.values())
        cosine = sum(naive_cosine(*pair) for pair in pairs.values()) / 4
        heavy = (
            3 * naive_cosine(*pairs["bias"])
            + sum(map(lambda p: naive_cosine(*p), pairs.values()))
            - naive_cosine(*pairs["bias"])
        ) / 6
        sign = sum(naive_sign(*pair, 0.5) for pair in pairs.values()) / 4
        for distance, wanted in (
            (L2(), l2),
            (L2(power=1, weights={"bias": 3.0}), root + 2 * naive_l2(*pairs["bias"]) ** 0.5),
            (L2L1(l1=l1), l2 + sum_l1),
            (L2L1(l1=l1, power=1), root + sum_l1),
            (Cosine(), cosine),
            (Cosine(weights={"bias": 3.0}), heavy),
            (WrongSigns(l1=0.5), sign),
        ):
            assert distance(factors, observed)[k].item() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    "distance",
    [L2(), L2L1(l1=dict.fromkeys(SHAPES, 0.3)), Cosine(), WrongSigns(), Kept(distance=Cosine())],
)
def test_slopes_are_those_of_finite_differences(
    factors: dict[str, Factor], observed: Observed, distance: object
) -> None:
    observed["linear"][observed["linear"] < 0] = 0.0
    inputs = torch.randn(2, N, 7, dtype=torch.float64, requires_grad=True)
    errors = torch.randn(2, N, 11, dtype=torch.float64, requires_grad=True)

    def of(inputs: Tensor, errors: Tensor) -> Tensor:
        result: Tensor = distance({"linear": Outer(inputs, errors, False)}, observed)  # type: ignore[operator]
        return result

    assert torch.autograd.gradcheck(of, (inputs, errors), eps=1e-7, atol=1e-5)


def test_kept_looks_at_what_was_sent_alone(factors: dict[str, Factor], observed: Observed) -> None:
    mask = {name: torch.rand(tensor.shape) < 0.4 for name, tensor in observed.items()}
    sent = Observed({name: tensor * mask[name] for name, tensor in observed.items()})
    distances = Kept(distance=L2())(factors, sent)
    for k in range(K):
        pairs = [
            (whole(factor, k)[mask[name]], sent[name][mask[name]])
            for name, factor in factors.items()
        ]
        assert distances[k].item() == pytest.approx(
            sum(naive_l2(*pair) for pair in pairs), rel=1e-9
        )
    dense = Kept(distance=WrongSigns())(factors, sent)
    assert dense.shape == (K,)


def test_l2_in_float64_tells_a_small_difference_beside_a_large_gradient() -> None:
    torch.manual_seed(3)
    large = Outer(torch.randn(1, N, 7), 30 * torch.randn(1, N, 11), False)
    small = Outer(torch.randn(1, N, 7), 1e-3 * torch.randn(1, N, 11), False)
    factors: dict[str, Factor] = {"head": large, "inner": small}
    off = {"head": 0.0, "inner": 1e-4}
    shape = torch.Size((11, 7))
    observed = Observed(
        {n: factor.double().dense(shape)[0] + off[n] for n, factor in factors.items()}
    )
    wanted = 77 * 1e-4**2  # of 11 x 7 entries, each 1e-4 off
    assert L2()(factors, observed).item() == pytest.approx(wanted, rel=1e-3)
