"""Bounds from canaries, against exact binomials, closed forms and simulated mechanisms."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from defenses.dp.accounting import gaussian
from fedsim.lab.canaries.bounds import lower_bound, mu_hat, one_run, p_value


@pytest.mark.parametrize(("guesses", "cap"), [(200, 4.19), (900, 5.70), (5000, 7.42)])
def test_perfect_guesses_give_the_cap(guesses: int, cap: float) -> None:
    # -ln(.05^(-1/r) - 1); with delta = 0 the p-value is q^r alone.
    assert -math.log(0.05 ** (-1 / guesses) - 1) == pytest.approx(cap, abs=0.005)
    assert lower_bound(guesses, guesses, guesses, 0.0, 0.05) == pytest.approx(cap, abs=0.005)


def test_without_delta_it_is_the_binomial_tail() -> None:
    q = 1 / (1 + math.exp(-0.7))
    expected = sum(binom.pmf(k, 40, q) for k in range(33, 41))
    assert p_value(100, 40, 33, 0.7, 0.0) == pytest.approx(expected, rel=1e-9)


def test_delta_adds_its_share() -> None:
    # beta + 2 m delta max_i P[v > Bin >= v - i] / i, by a naive loop.
    q = 1 / (1 + math.exp(-0.5))
    pmf = [binom.pmf(k, 20, q) for k in range(21)]
    alpha = max(sum(pmf[15 - i : 15]) / i for i in range(1, 16))
    expected = sum(pmf[15:]) + 2 * 50 * 1e-3 * alpha
    assert p_value(50, 20, 15, 0.5, 1e-3) == pytest.approx(expected, rel=1e-9)
    assert p_value(50, 20, 0, 0.5, 1e-3) == 1.0


def test_blind_guesses_prove_nothing() -> None:
    assert lower_bound(200, 100, 50, 1e-5, 0.05) == 0.0
    assert lower_bound(200, 0, 0, 1e-5, 0.05) == 0.0


def simulated(mu: float, m: int, seed: int) -> tuple[list[bool], list[float]]:
    """Scores of m canaries whose mechanism is Gaussian with distance mu."""
    source = np.random.default_rng(seed)
    inside = source.random(m) < 0.5
    return inside.tolist(), (mu * inside + source.standard_normal(m)).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_the_bound_is_below_the_truth_in_at_least_95_percent_of_runs(mu: float) -> None:
    truth = gaussian(mu, 1e-5)
    bounds = [one_run(*simulated(mu, 300, seed), 1e-5, 0.05).epsilon for seed in range(60)]
    assert sum(bound > truth for bound in bounds) <= 3
    assert max(bounds) > 0.0  # and it is not always 0


def test_a_total_leak_reaches_the_cap() -> None:
    inside, scores = simulated(1e3, 400, 0)
    found = one_run(inside, scores, 1e-5, 0.05)
    assert found.right == found.guesses and found.epsilon == found.cap > 3.5


def test_mu_is_found_with_its_interval() -> None:
    inside, scores = simulated(1.5, 4000, 1)
    one = [s for s, i in zip(scores, inside, strict=True) if i]
    other = [s for s, i in zip(scores, inside, strict=True) if not i]
    found = mu_hat(one, other, 0.05)
    assert found.mean == pytest.approx(1.5, rel=0.1)
    assert found.low < 1.5 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.645 * math.sqrt(2 / 2000 + 2.25 / 4000),
                                                   rel=0.1)  # fmt: skip


def test_canaries_without_noise_are_infinitely_far() -> None:
    assert math.isinf(mu_hat([1.0, 1.0], [0.0, 0.0], 0.05).low)
