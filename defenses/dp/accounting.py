"""How much privacy a client has spent: Opacus' accountants over all its steps so far.

Source: RDP: Mironov, Talwar, Zhang, arXiv:1908.10530; PRV: Gopi, Lee, Wutschitz, NeurIPS 2021,
        arXiv:2106.02848; without sampling: Balle & Wang, ICML 2018, arXiv:1805.06530, theorem 8.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from scipy.optimize import brentq
from scipy.special import log_ndtr

Entry = tuple[float, float, int]
"""Noise multiplier z, sampling rate q, number of steps."""
History = tuple[Entry, ...]

ALPHAS = [1.0 + x / 100 for x in range(1, 10)] + [1.0 + x / 10 for x in range(1, 100)]
ALPHAS += [float(x) for x in (*range(11, 64), *(2**k for k in range(6, 13)))]
PRECISION = 0.002  # of PRV's epsilon, as a share of RDP's: no finer than of its own
MOST = 2.0**14  # a noise multiplier above it is no training
LEAST = 1e-4  # a noise multiplier below it is no protection: its epsilon is called infinite
FAR = 300.0  # epsilon from which PRV's exp(epsilon) may overflow: Opacus' is then far too low


def add(history: Sequence[Entry], z: float, q: float, steps: int) -> list[Entry]:
    """Return ``history`` with ``steps`` more steps."""
    if history and tuple(history[-1][:2]) == (z, q):
        return [*history[:-1], (z, q, history[-1][2] + steps)]
    return [*history, (z, q, steps)]


@functools.lru_cache(maxsize=1024)
def rdp(history: History, delta: float) -> float:
    """Return epsilon by Renyi differential privacy: an upper bound, a little loose."""
    if any(z < LEAST for z, _, _ in history):
        return math.inf
    if not history:
        return 0.0
    from opacus.accountants.analysis.rdp import get_privacy_spent

    total = sum(_of_a_step(z, q) * steps for z, q, steps in history)
    with warnings.catch_warnings():  # that the best order is the last one: the bound holds
        warnings.simplefilter("ignore")
        return float(get_privacy_spent(orders=ALPHAS, rdp=total, delta=delta)[0])


@functools.lru_cache(maxsize=1024)
def _of_a_step(z: float, q: float) -> Any:
    """Return one step's Renyi divergences, by ``ALPHAS``: steps add them up, and they take long."""
    from opacus.accountants.analysis.rdp import compute_rdp  # here: opacus takes a second

    return compute_rdp(q=q, noise_multiplier=z, steps=1, orders=ALPHAS)


@functools.lru_cache(maxsize=1024)
def prv(history: History, delta: float) -> float:
    """Return epsilon by privacy random variables: tight from above.

    To ``PRECISION`` of the epsilon by RDP, which is cheap and no smaller.

    Steps that take every example have a closed form; where they are mixed with sampled ones, or
    spend more than ``FAR``, the bound is RDP's.
    """
    if any(z < LEAST for z, _, _ in history):
        return math.inf
    if all(q == 1.0 for _, q, _ in history):
        return gaussian(math.sqrt(sum(steps / z**2 for z, _, steps in history)), delta)
    bound = rdp(history, delta)
    if bound > FAR or any(q == 1.0 for _, q, _ in history):
        return bound
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(history)
    with warnings.catch_warnings():  # of RDP inside it, as above
        warnings.simplefilter("ignore")
        try:
            epsilon = float(accountant.get_epsilon(delta, eps_error=PRECISION * bound))
        except RuntimeError:  # its grid does not fit these steps, and it says so
            return bound
    return min(epsilon, bound)


def gaussian(mu: float, delta: float) -> float:
    """Return epsilon of a Gaussian mechanism whose outputs differ by ``mu`` standard deviations."""
    if mu == 0.0:
        return 0.0

    def surplus(epsilon: float) -> float:
        first = log_ndtr(-epsilon / mu + mu / 2)
        second = epsilon + log_ndtr(-epsilon / mu - mu / 2)
        gap = second - first
        spent = first + math.log(-math.expm1(gap)) if gap < 0.0 else -math.inf
        return float(max(spent, -1e300) - math.log(delta))

    if surplus(0.0) <= 0.0:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1.0
    return float(brentq(surplus, 0.0, high, xtol=1e-9, rtol=1e-9))


ACCOUNTANTS: dict[str, Callable[[History, float], float]] = {"prv": prv, "rdp": rdp}


def noise_for(epsilon: float, delta: float, q: float, steps: int, accountant: str) -> float | None:
    """Return the least z (to 0.5 %) with which ``steps`` steps spend ``epsilon``; None: none."""
    spend = ACCOUNTANTS[accountant]

    def fits(z: float) -> bool:
        history = ((z, q, steps),)  # what RDP, which is cheap, lets pass, PRV does too
        return rdp(history, delta) <= epsilon or spend(history, delta) <= epsilon

    high = 1.0
    while rdp(((high, q, steps),), delta) > epsilon and high < MOST:
        high *= 2.0
    if not fits(high):  # RDP has a least epsilon, and PRV may go below it
        return None
    low = high / 2.0
    while low > 1e-3 and fits(low):
        low /= 2.0
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
