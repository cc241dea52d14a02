"""Opacus' accountants, as we call them, against Google's and against closed forms."""

import logging
import math

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy.stats import norm

from defenses.dp.accounting import History, add, gaussian, noise_for, prv, rdp

SETTINGS: list[tuple[History, float]] = [
    (((1.0, 1.0, 1),), 1e-5),
    (((0.5, 1.0, 3),), 1e-5),
    (((2.0, 1.0, 1),), 1e-6),
    (((1.0, 0.01, 100),), 1e-5),
    (((4.0, 0.02, 1000),), 1e-6),
    (((0.7, 0.1, 20),), 1e-5),
    (((1.0, 0.3, 50),), 1e-4),
    (((0.5, 0.2, 3),), 1e-3),
    (((1.0, 0.1, 10), (1.2, 0.05, 5)), 1e-5),  # rounds with and without a larger batch
    (((2.0, 0.25, 7), (2.0, 0.5, 4), (1.0, 0.1, 1)), 1e-5),
]


def event(history: History) -> dp_accounting.DpEvent:
    steps = [
        dp_accounting.SelfComposedDpEvent(
            dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z)), count
        )
        for z, q, count in history
    ]
    return dp_accounting.ComposedDpEvent(steps)


@pytest.mark.slow
@pytest.mark.parametrize(("history", "delta"), SETTINGS)
def test_epsilon_is_googles_to_a_percent(history: History, delta: float) -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    tight, loose = PLDAccountant(value_discretization_interval=1e-3), RdpAccountant()
    tight.compose(event(history))
    loose.compose(event(history))
    assert prv(history, delta) == pytest.approx(tight.get_epsilon(delta), rel=0.01)
    assert rdp(history, delta) == pytest.approx(loose.get_epsilon(delta), rel=0.01)
    assert prv(history, delta) < rdp(history, delta) * 1.001


def one_step(z: float, q: float, delta: float) -> float:
    """One sampled step: delta(eps) = q delta_G(ln(1 + (e^eps - 1) / q)), the example left out."""
    whole = gaussian(1.0 / z, delta / q)
    return whole + math.log(q + (1.0 - q) * math.exp(-whole))


@pytest.mark.slow
@pytest.mark.parametrize("q", [0.5, 0.1, 1 / 31.5, 0.002])
@pytest.mark.parametrize("z", [0.2, 0.1, 0.05, 0.04, 0.02, 0.01, 1e-4])
def test_an_epsilon_of_hardly_any_noise_is_no_lower_than_the_closed_form(
    z: float, q: float
) -> None:
    exact, tight = one_step(z, q, 1e-5), prv(((z, q, 1),), 1e-5)
    assert exact < tight <= rdp(((z, q, 1),), 1e-5)
    assert tight < 1.1 * exact


def test_many_steps_with_hardly_any_noise_have_a_finite_bound() -> None:
    history: History = ((0.01, 0.0159, 6),)
    assert prv(history, 1e-5) == rdp(history, 1e-5) < 1e5


def test_where_opacus_grid_does_not_fit_the_bound_is_rdps(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> float:
        raise RuntimeError("Discrete mean differs significantly from continuous mean.")

    monkeypatch.setattr("opacus.accountants.PRVAccountant.get_epsilon", fails)
    history: History = ((1.0, 0.123, 7),)
    assert prv(history, 1e-5) == rdp(history, 1e-5)


@pytest.mark.parametrize("z", [0.0, 1e-200, 1e-5])
def test_next_to_no_noise_is_none(z: float) -> None:
    for q in (0.1, 1.0):
        assert math.isinf(prv(((z, q, 3),), 1e-5)) and math.isinf(rdp(((z, q, 3),), 1e-5))


@pytest.mark.parametrize(("z", "expected"), [(0.5, 9.997), (1.0, 4.377), (2.0, 1.993)])
def test_a_gaussian_mechanism_has_its_closed_form(z: float, expected: float) -> None:
    # delta(eps) = Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2): Balle & Wang, theorem 8.
    epsilon, mu = gaussian(1.0 / z, 1e-5), 1.0 / z
    spent = norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)
    assert spent == pytest.approx(1e-5, rel=1e-6)
    assert epsilon == pytest.approx(expected, abs=1e-3)


def test_no_distance_and_a_large_delta_spend_nothing() -> None:
    assert gaussian(0.0, 1e-5) == 0.0
    assert gaussian(0.01, 0.5) == 0.0


def test_sampled_steps_beside_full_ones_get_the_loose_bound() -> None:
    history: History = ((1.0, 1.0, 1), (1.0, 0.1, 5))
    assert prv(history, 1e-5) == rdp(history, 1e-5)
    assert prv(history, 1e-5) > prv(((1.0, 1.0, 1),), 1e-5)


def test_equal_steps_are_counted_together() -> None:
    history = add(add(add([], 1.0, 0.1, 2), 1.0, 0.1, 3), 1.0, 0.2, 1)
    assert history == [(1.0, 0.1, 5), (1.0, 0.2, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epsilon", "accountant"), [(0.5, "prv"), (8.0, "prv"), (0.5, "rdp"), (8.0, "rdp")]
)
def test_the_noise_for_an_epsilon_spends_it(epsilon: float, accountant: str) -> None:
    z = noise_for(epsilon, 1e-5, 0.1, 20, accountant)
    assert z is not None
    spend = {"prv": prv, "rdp": rdp}[accountant]
    assert 0.97 * epsilon < spend(((z, 0.1, 20),), 1e-5) <= epsilon


def test_prv_meets_what_rdp_cannot() -> None:
    z = noise_for(5e-4, 1e-5, 1.0, 3, "prv")
    assert z is not None
    assert 0.97 * 5e-4 < gaussian(math.sqrt(3) / z, 1e-5) <= 5e-4 < rdp(((z, 1.0, 3),), 1e-5)
    assert noise_for(5e-4, 1e-5, 1.0, 3, "rdp") is None


def test_no_noise_is_enough_for_almost_no_epsilon() -> None:
    assert noise_for(1e-9, 1e-12, 1.0, 1000, "rdp") is None
