import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fedsim.lab.scoring.intervals import (
    cluster_interval,
    difference_interval,
    metric_interval,
    paired_interval,
    wilson,
)
from fedsim.lab.store.figures import Interval


def naive_bootstrap(values: Sequence[Sequence[float]], resamples: int) -> tuple[float, float]:
    """The definition, one draw at a time, with another generator."""
    dice = random.Random(0)
    means = []
    for _ in range(resamples):
        drawn = [value for _ in values for value in dice.choice(values)]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def random_clusters(count: int) -> list[list[float]]:
    dice = random.Random(7)
    centres = [dice.gauss(0, 1) for _ in range(count)]
    return [[c + dice.gauss(0, 0.3) for _ in range(dice.randint(1, 9))] for c in centres]


# cluster_interval


def test_agrees_with_a_naive_loop() -> None:
    values = random_clusters(23)
    got = cluster_interval(values, seed=1, resamples=20_000)
    low, high = naive_bootstrap(values, 20_000)
    # a quantile of 20,000 draws at 2.5 % has a standard error of about 1 % of the width
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.04 * (high - low))
    flat = [value for cluster in values for value in cluster]
    assert got.mean == pytest.approx(sum(flat) / len(flat))


def test_many_equal_clusters_give_the_normal_interval() -> None:
    dice = random.Random(3)
    values = [[dice.gauss(5, 2)] for _ in range(400)]
    got = cluster_interval(values, seed=0, resamples=20_000)
    expected = 1.959964 * np.std(values) / 400**0.5  # central limit theorem, plug-in variance
    assert (got.high - got.low) / 2 == pytest.approx(expected, rel=0.05)


def test_two_updates_reach_from_one_to_the_other() -> None:
    # resamples are (a, a), (a, b), (b, a), (b, b), a quarter each: the ends are a and b.
    # Every sample counts once, so the mean is 1/10, not the 1/2 of averaging the updates.
    got = cluster_interval([[0.0] * 9, [1.0]], seed=0)
    assert (got.low, got.high) == (0.0, 1.0)
    assert got.mean == pytest.approx(0.1)


def test_samples_that_agree_within_an_update_count_once() -> None:
    dice = random.Random(5)
    level = [dice.random() for _ in range(60)]
    together = cluster_interval([[v] * 9 for v in level], seed=0)
    apart = cluster_interval([[v] for v in level for _ in range(9)], seed=0)
    # nine copies are no news: the honest interval is sqrt(9) times the one that believes them
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(3.0, rel=0.15)


def test_a_single_update_resamples_its_samples() -> None:
    samples = [0.1, 0.4, 0.4, 0.9, 0.2]
    assert cluster_interval([samples], seed=4) == cluster_interval([[v] for v in samples], seed=4)
    got = cluster_interval([samples], seed=4)
    assert got.low < got.mean < got.high


def test_the_seed_decides_and_nothing_else() -> None:
    values = random_clusters(11)
    assert cluster_interval(values, seed=1) == cluster_interval(values, seed=1)
    assert cluster_interval(values, seed=1) != cluster_interval(values, seed=2)


def test_moving_and_scaling_the_values_moves_and_scales_the_interval() -> None:
    values = random_clusters(11)
    plain = cluster_interval(values, seed=1)
    moved = cluster_interval([[100 * v + 3 for v in c] for c in values], seed=1)
    expected = [100 * v + 3 for v in (plain.mean, plain.low, plain.high)]
    assert [moved.mean, moved.low, moved.high] == pytest.approx(expected)


@pytest.mark.parametrize(("value", "ends"), [(1.0, (0.5655, 1.0)), (0.0, (0.0, 0.4345))])
def test_a_rate_of_0_or_1_gets_wilsons_interval_over_updates(
    value: float, ends: tuple[float, float]
) -> None:
    got = cluster_interval([[value] * 40] * 5, seed=0, fraction=True)
    # n = 5 updates, not 200 samples: 5 / (5 + 1.96^2) = 0.5655
    assert (got.low, got.high) == pytest.approx(ends, abs=1e-4)
    assert got.mean == value


def test_a_rate_in_a_single_update_gets_wilsons_interval_over_samples() -> None:
    got = cluster_interval([[1.0] * 100], seed=0, fraction=True)
    assert (got.mean, got.low, got.high) == pytest.approx((1.0, 0.9630, 1.0), abs=1e-4)


@pytest.mark.parametrize(("name", "most"), [("bag_f1", 1.0), ("rouge1", 100.0)])
def test_a_metric_is_bounded_in_its_own_units(name: str, most: float) -> None:
    got = metric_interval(name, [[0.3 * most]], seed=0)  # as below, p = 0.3, n = 1
    want = (0.3 * most, 0.0207 * most, 0.8966 * most)
    assert (got.mean, got.low, got.high) == pytest.approx(want, abs=1e-4 * most)
    values = [[0.0, 1.0], [1.0], [0.5, 1.0, 1.0]]
    spread = cluster_interval(values, seed=3)  # what varies is bootstrapped, as before
    got = metric_interval(name, [[one * most for one in some] for some in values], seed=3)
    ours = (got.mean / most, got.low / most, got.high / most)
    assert ours == pytest.approx((spread.mean, spread.low, spread.high))


def test_one_sample_never_gives_certainty() -> None:
    # p = 0.3, n = 1, by hand: (0.3 + 1.9207 -+ 1.9600 sqrt(0.21 + 0.9604)) / 4.8415
    got = cluster_interval([[0.3]], seed=0, fraction=True)
    assert (got.mean, got.low, got.high) == pytest.approx((0.3, 0.0207, 0.8966), abs=1e-4)


def test_equal_values_that_nothing_bounds_have_no_width() -> None:
    # compared exactly: three times 0.1 sums to 0.30000000000000004
    assert cluster_interval([[0.1, 0.1], [0.1]], seed=0) == Interval(0.1, 0.1, 0.1)
    assert cluster_interval([[1.0], [1.0]], seed=0) == Interval(1.0, 1.0, 1.0)


def test_a_rate_that_varies_is_bootstrapped() -> None:
    values = [[0.0, 1.0], [1.0], [0.5, 1.0, 1.0]]
    assert cluster_interval(values, seed=0, fraction=True) == cluster_interval(values, seed=0)


def test_the_default_is_two_thousand_resamples() -> None:
    values = random_clusters(9)
    assert cluster_interval(values, seed=3) == cluster_interval(values, seed=3, resamples=2000)
    assert cluster_interval(values, seed=3) != cluster_interval(values, seed=3, resamples=1999)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "at least one client update, got none"),
        ([[1.0], []], {}, "at least one sample; number 1 has 0"),
        ([[]], {}, "at least one sample; number 0 has 0"),
        ([[0.5], [float("nan")]], {}, "must be finite, got nan in client update 1"),
        ([[float("inf")]], {}, "must be finite, got inf in client update 0"),
        ([[0.5], [1.5]], {"fraction": True}, r"must be in \[0, 1\], got 1.5 in update 1"),
        ([[-0.5]], {"fraction": True}, r"must be in \[0, 1\], got -0.5 in update 0"),
        ([[1.0]], {"resamples": 0}, "resamples must be at least 1, got 0"),
    ],
)
def test_what_has_no_interval_is_refused(
    values: list[list[float]], options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_interval(values, seed=0, **options)


def test_resampling_leaves_inputs_and_global_generators_alone() -> None:
    python, legacy = random.getstate(), np.random.get_state(legacy=False)
    values = random_clusters(5)
    cluster_interval(values, seed=0)
    assert values == random_clusters(5)
    assert random.getstate() == python
    np.testing.assert_equal(np.random.get_state(legacy=False), legacy)


# wilson


def test_wilson_by_hand() -> None:
    # all right: n / (n + z^2) = 100 / 103.8415; none: z^2 / (n + z^2) = 3.8415 / 13.8415
    assert wilson(100, 100) == pytest.approx((0.9630, 1.0), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    # 8 of 10: (0.8 + 0.1921 -+ 1.9600 sqrt(0.016 + 0.0096)) / 1.3841
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize(("successes", "n"), [(1, 7), (3, 7), (50, 93), (92, 93)])
def test_wilsons_ends_are_where_the_score_test_just_rejects(successes: int, n: int) -> None:
    for end in wilson(successes, n):
        score = abs(successes / n - end) / (end * (1 - end) / n) ** 0.5
        assert score == pytest.approx(1.959964, abs=1e-6)  # the interval's definition


def test_wilson_is_symmetric_and_never_leaves_the_unit_interval() -> None:
    for n in range(1, 60):
        for successes in range(n + 1):
            low, high = wilson(successes, n)
            assert 0.0 <= low < high <= 1.0
            mirrored = wilson(n - successes, n)
            assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)
        assert wilson(0, n)[0] == 0.0
        assert wilson(n, n)[1] == 1.0


def test_wilson_refuses_what_is_no_rate() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        wilson(0, 0)
    with pytest.raises(ValueError, match=r"successes must be in \[0, 3\], got 4"):
        wilson(4, 3)
    with pytest.raises(ValueError, match=r"successes must be in \[0, 3\], got -1"):
        wilson(-1, 3)


# Differences


def test_paired_differences_are_resampled_by_update() -> None:
    differences = [[0.5, 0.25], [-0.25], [0.0, 0.5, 0.5]]
    plain = cluster_interval(differences, seed=3)
    assert vars(paired_interval(differences, seed=3, most=1.0)) == pytest.approx(vars(plain))
    large = paired_interval([[100 * d for d in c] for c in differences], seed=3, most=100.0)
    assert large.low == pytest.approx(100 * plain.low)


@pytest.mark.parametrize("value", [1.0, -1.0, 0.4, -0.4])
def test_equal_differences_still_have_a_width(value: float) -> None:
    between = paired_interval([[value * 50] * 2] * 5, seed=1, most=50.0)
    wilson5 = cluster_interval([[abs(value)]] * 5, seed=1, fraction=True)
    ends = sorted([math.copysign(50 * wilson5.low, value), math.copysign(50 * wilson5.high, value)])
    assert between.mean == pytest.approx(50 * value)
    assert [between.low, between.high] == pytest.approx(ends)


def test_no_difference_reaches_as_far_as_no_success() -> None:
    between = paired_interval([[0.0, 0.0]] * 10, seed=1, most=1.0)
    assert between.mean == 0.0
    assert between.high == -between.low == pytest.approx(wilson(0, 10)[1])


@pytest.mark.parametrize(
    ("differences", "line"),
    [([[2.0]], r"in \[0, 1\], got 2.0"), ([], "at least one client update"), ([[]], "number 0")],
)
def test_differences_that_cannot_be(differences: list[list[float]], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        paired_interval(differences, seed=1, most=1.0)


def test_newcombes_own_example() -> None:
    # Newcombe 1998, Table II, (a): 56/70 - 48/80 by method 10 is 0.0524 to 0.3339.
    one, other = [Interval(k / n, *wilson(k, n)) for k, n in ((56, 70), (48, 80))]
    between = difference_interval(one, other)
    assert [between.mean, between.low, between.high] == pytest.approx(
        [0.2, 0.0524, 0.3339], abs=5e-5
    )
