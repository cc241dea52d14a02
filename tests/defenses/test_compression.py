"""Compression against closed forms and loops over entries, in float64."""

import math
from typing import Any, cast

import numpy as np
import pytest
import torch

from defenses import Quantize, RandomMask, Sign, TopK, TruncatedSVD
from defenses.base import Here, Memory
from fedsim.errors import ClientFailure
from fedsim.training import TrainingSettings
from tests.defenses.updates import entries, seeded, sent, update

# Top-k


def test_the_largest_of_the_whole_update_are_kept() -> None:
    raw = update()
    values = entries(raw)
    order = sorted(range(len(values)), key=lambda place: -abs(values[place]))
    kept = set(order[: round(0.2 * len(values))])
    expected = [x if place in kept else 0.0 for place, x in enumerate(values)]
    assert entries(sent(TopK(fraction=0.2), raw)) == expected


def test_per_tensor_each_keeps_its_own_share() -> None:
    raw = update()
    kept = sent(TopK(fraction=0.2, per="tensor"), raw)
    for name, tensor in raw.items():
        count = max(1, round(0.2 * tensor.numel()))
        least = sorted(tensor.abs().flatten().tolist())[-count]
        assert torch.equal(kept[name], torch.where(tensor.abs() >= least, tensor, 0.0))
    assert int(kept["b.bias"].count_nonzero()) == 1  # 0.2 * 7 = 1.4


def test_of_equal_entries_the_first_are_kept() -> None:
    raw = {"w": torch.tensor([1.0, -2.0, 2.0, 2.0, -2.0, 0.5])}
    assert entries(sent(TopK(fraction=0.5), raw)) == [0.0, -2.0, 2.0, 2.0, 0.0, 0.0]


def test_something_is_always_sent_and_all_of_it_for_one() -> None:
    raw = update()
    assert sum(x != 0 for x in entries(sent(TopK(fraction=1e-9), raw))) == 1
    assert entries(sent(TopK(fraction=1.0), raw)) == entries(raw)


def here(memory: Memory) -> Here:
    return Here(
        round=1, held=9, expected=2, training=TrainingSettings(), memory=memory, generator=seeded()
    )


def test_the_residual_is_what_was_not_sent_so_nothing_is_ever_lost() -> None:
    defense, memory = TopK(fraction=0.1, residual=True), Memory()
    given, gone = np.zeros(149), np.zeros(149)
    residual = np.zeros(149)
    for round_ in range(5):
        raw = update(round_)
        work = defense.begin(here(memory))
        kept = sent(work, raw)
        work.audit(raw, kept)
        memory = work.keep()
        whole = residual + np.array(entries(raw))  # Stich et al., algorithm 1
        cut = sorted(np.abs(whole))[-15]
        np.testing.assert_allclose(entries(kept), np.where(np.abs(whole) >= cut, whole, 0.0), 1e-5)
        residual = np.where(np.abs(whole) >= cut, 0.0, whole)
        given += np.array(entries(raw))
        gone += np.array(entries(kept))
    np.testing.assert_allclose(given, gone + np.array(entries(memory.tensors)), atol=1e-6)
    assert entries(raw) == entries(update(4))


def test_without_a_residual_nothing_is_kept() -> None:
    defense = TopK(fraction=0.1)
    assert defense.begin(here(Memory(tensors={"b.bias": torch.ones(7)}))) is defense
    assert defense.keep() == Memory()


# Random mask


def test_a_mask_keeps_its_share_and_is_right_on_average() -> None:
    raw = {"w": torch.linspace(-3.0, 4.0, 801).reshape(3, 267)}
    total, kept = torch.zeros(3, 267), 0
    for seed in range(400):
        masked = sent(RandomMask(fraction=0.25), raw, seed)["w"]
        assert torch.equal(masked[masked != 0], 4 * raw["w"][masked != 0])
        total += masked
        kept += int(masked.count_nonzero())
    assert kept / (400 * 801) == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / (400 * 801)))
    error = (total / 400 - raw["w"]).abs()
    assert (error <= 5 * raw["w"].abs() * math.sqrt(3 / 400) + 1e-6).all()  # (1 - p) / p = 3


def test_masks_are_of_the_generator() -> None:
    raw = update()
    assert entries(sent(RandomMask(), raw, 3)) == entries(sent(RandomMask(), raw, 3))
    assert entries(sent(RandomMask(), raw, 3)) != entries(sent(RandomMask(), raw, 4))
    assert entries(sent(RandomMask(fraction=1.0), raw)) == entries(raw)


# Sign


def test_a_tensor_is_its_signs_times_its_mean_magnitude() -> None:
    raw = update()
    for name, tensor in sent(Sign(), raw).items():
        values = raw[name].double().flatten().tolist()
        mean = sum(map(abs, values)) / len(values)
        expected = [math.copysign(mean, x) for x in values]
        assert tensor.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_zeros_take_either_sign_by_a_fair_coin() -> None:
    raw = {"w": torch.cat([torch.zeros(4000), torch.tensor([8.0])])}
    signed = sent(Sign(), raw)["w"]
    assert (signed.abs() == 8 / 4001).all() and signed[-1] > 0
    positive = int((signed[:-1] > 0).sum())
    assert abs(positive - 2000) < 5 * math.sqrt(1000)
    assert sent(Sign(), {"w": torch.zeros(3)})["w"].tolist() == [0.0, 0.0, 0.0]


# Quantisation


@pytest.mark.parametrize(("dtype", "levels"), [("int8", 127), ("int4", 7)])
def test_integers_are_the_nearest_multiples_of_a_step(dtype: Any, levels: int) -> None:
    raw = update()
    for name, tensor in sent(Quantize(dtype=dtype), raw).items():
        values = raw[name].double().flatten().tolist()
        step = float(np.float32(max(map(abs, values)) / levels))
        expected = [round(x / step) * step for x in values]
        assert tensor.flatten().tolist() == pytest.approx(expected, rel=1e-6)
        assert len(tensor.unique()) <= 2 * levels + 1


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_floats_are_the_nearest_of_their_dtype(name: Any) -> None:
    raw = {"w": torch.cat([torch.randn(999, generator=seeded()), torch.tensor([0.0, 3e-8, 7e-6])])}
    rounded = sent(Quantize(dtype=name), raw)["w"]
    if name == "float16":  # numpy's own rounding; it has no bfloat16
        expected = raw["w"].numpy().astype(np.float16).astype(np.float32)
    else:  # the upper half of a float32, rounded to even
        bits = raw["w"].numpy().view(np.uint32).astype(np.uint64)
        halves = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
        expected = halves.astype(np.uint32).view(np.float32)
    assert np.array_equal(rounded.numpy(), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "int4"])
def test_stochastic_rounding_takes_a_neighbour_and_is_right_on_average(dtype: Any) -> None:
    raw = {"w": torch.cat([torch.linspace(-1.0, 1.0, 203), torch.tensor([0.0, 1e-3, -3e-5])])}
    exact = raw["w"].double()
    rounds = 600
    draws = torch.stack(
        [sent(Quantize(dtype=dtype, rounding="stochastic"), raw, s)["w"] for s in range(rounds)]
    ).double()
    if dtype in ("int8", "int4"):
        step = torch.full_like(exact, 1 / (127 if dtype == "int8" else 7))
    else:  # a float's neighbours are eps apart at 1, half of that below 1/2, and so on
        exponent = torch.floor(torch.log2(exact.abs().clamp_min(1e-30)))
        step = 2.0**exponent * torch.finfo(getattr(torch, dtype)).eps
        step = step.clamp_min(2.0**-24 if dtype == "float16" else 0.0)
    assert ((draws - exact).abs() < step * (1 + 1e-6) + 1e-12).all()
    assert (draws.unique(dim=0).shape[0] > 1) and (draws[:, 203] == 0).all()
    for column in range(len(exact)):
        assert len(draws[:, column].unique()) <= 2
    assert ((draws.mean(0) - exact).abs() <= 5 * step / 2 / math.sqrt(rounds) + 1e-12).all()


def test_what_is_beyond_a_float_is_an_error() -> None:
    for rounding in ("nearest", "stochastic"):
        with pytest.raises(ClientFailure, match="too large, float16 ends at 65504") as error:
            sent(Quantize(dtype="float16", rounding=rounding), {"w": torch.tensor([1.0, -7e4])})
        assert "7" not in str(error.value)  # the server reads it
        assert error.value.__notes__ == ["one of 'w' is 70000"]
        rounded = sent(
            Quantize(dtype="bfloat16", rounding=rounding), {"w": torch.tensor([1.0, -7e4])}
        )
        assert rounded["w"][1].item() == pytest.approx(-7e4, rel=2**-7)


# Truncated SVD


def test_a_matrix_is_the_best_of_its_rank() -> None:
    raw = update()
    truncated = sent(TruncatedSVD(rank=2), raw)
    for name in ("b.weight", "a.weight"):
        left, values, right = np.linalg.svd(raw[name].double().numpy(), full_matrices=False)
        expected = (left[:, :2] * values[:2]) @ right[:2]
        np.testing.assert_allclose(truncated[name].numpy(), expected, atol=1e-6)
        error = np.linalg.norm(truncated[name].double().numpy() - raw[name].double().numpy())
        assert error == pytest.approx(np.sqrt((values[2:] ** 2).sum()), rel=1e-5)  # Eckart, Young
    assert torch.equal(truncated["b.bias"], raw["b.bias"])


def test_a_matrix_that_factors_would_not_shorten_travels_whole() -> None:
    raw = update()
    truncated = sent(TruncatedSVD(rank=4), raw)
    assert torch.equal(truncated["a.weight"], raw["a.weight"])  # 4 * 18 = 72 > 65
    assert not torch.equal(truncated["b.weight"], raw["b.weight"])  # 4 * 18 = 72 < 77


# Bad settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(fraction=0.0), r"fraction must be in \(0, 1\], got 0.0"),
        (lambda: TopK(fraction=1.5), r"fraction must be in \(0, 1\], got 1.5"),
        (lambda: TopK(per=cast(Any, "layer")), "per must be update or tensor, got 'layer'"),
        (lambda: RandomMask(fraction=0.0), r"fraction must be in \(0, 1\], got 0.0"),
        (lambda: RandomMask(fraction=float("nan")), r"fraction must be in \(0, 1\], got nan"),
        (
            lambda: Quantize(dtype=cast(Any, "int2")),
            "dtype must be one of float16, bfloat16, int8, int4",
        ),
        (
            lambda: Quantize(rounding=cast(Any, "up")),
            "rounding must be one of nearest, stochastic, got 'up'",
        ),
        (lambda: TruncatedSVD(rank=0), "rank must be > 0, got 0"),
    ],
)
def test_bad_settings_are_said(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
