"""What canaries prove about a privacy guarantee: lower bounds on epsilon, with their confidence.

Source: Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023,
        arXiv:2305.08846, theorem 5.2 (the bound, with delta); Dong, Roth, Su, JRSS-B 2022,
        arXiv:1905.02383 (mu of a Gaussian mechanism).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

SHARES = ((0.05, 0.05), (0.25, 0.25), (0.5, 0.5), (0.05, 0.0), (0.25, 0.0))
"""Which shares of all canaries to call "in" and "out": each is tried, at a part of the level."""


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """A certified lower bound on epsilon."""

    epsilon: float
    guesses: int
    right: int
    cap: float  # the bound that as many guesses would give, were all of them right


def one_run(inside: Sequence[bool], scores: Sequence[float], delta: float, level: float) -> OneRun:
    """Return the best bound over ``SHARES``, each at ``level / len(SHARES)``.

    Args:
        inside: whether each canary was trained on, each by a fair coin.
        scores: the higher, the likelier it was.
        delta: of the guarantee.
        level: the chance that the bound is above the true epsilon, e.g. 0.05.
    """
    order = np.argsort(-np.asarray(scores, dtype=float), kind="stable")
    truth, m = np.asarray(inside, dtype=bool)[order], len(scores)
    bounds = []
    for high, low in SHARES:
        top, bottom = round(high * m), round(low * m)
        right = int(truth[:top].sum() + (~truth[m - bottom :]).sum())
        part = level / len(SHARES)
        bounds.append(
            OneRun(
                epsilon=lower_bound(m, top + bottom, right, delta, part),
                guesses=top + bottom,
                right=right,
                cap=lower_bound(m, top + bottom, top + bottom, delta, part),
            )
        )
    return max(bounds, key=lambda bound: (bound.epsilon, bound.cap))


def lower_bound(m: int, guesses: int, right: int, delta: float, level: float) -> float:
    """Return the largest epsilon whose p-value is below ``level``; 0 where there is none."""
    if guesses == 0 or p_value(m, guesses, right, 0.0, delta) >= level:
        return 0.0
    low, high = 0.0, 50.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        fits = p_value(m, guesses, right, middle, delta) < level
        low, high = (middle, high) if fits else (low, middle)
    return low


def p_value(m: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return how likely ``right`` of ``guesses`` are, were the run (epsilon, delta)-private."""
    from scipy.stats import binom  # here: it takes half a second

    q = 1.0 / (1.0 + math.exp(-epsilon))
    beta = float(binom.sf(right - 1, guesses, q))
    i = np.arange(1, right + 1)
    between = binom.sf(right - i - 1, guesses, q) - beta  # P[right - i <= Bin < right]
    alpha = float((between / i).max()) if right else 0.0
    return min(1.0, beta + 2 * m * delta * alpha)


@dataclass(frozen=True, kw_only=True)
class Mu:
    """How far apart canaries that were in and out lie on the wire, in standard deviations."""

    mean: float
    low: float
    high: float


def mu_hat(inside: Sequence[float], outside: Sequence[float], level: float) -> Mu:
    """Return the distance of the means over the deviation of those that were out.

    The interval is the normal one: the means' errors, and the deviation's.

    Args:
        inside: what the wire carried along each canary that was trained on.
        outside: along each that was not.
        level: the share of intervals that miss the truth, on the low side.
    """
    there, absent = np.asarray(inside, dtype=float), np.asarray(outside, dtype=float)
    gap, deviation = float(there.mean() - absent.mean()), float(absent.std(ddof=1))
    if deviation <= 1e-6 * abs(gap):  # no noise at all
        return Mu(mean=math.inf, low=math.inf, high=math.inf)
    mu = gap / deviation
    spread = math.sqrt(1 / len(there) + 1 / len(absent) + mu**2 / (2 * len(absent)))
    reach = float(ndtri(1 - level)) * spread
    return Mu(mean=mu, low=mu - reach, high=mu + reach)
