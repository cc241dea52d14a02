"""95 % intervals for a mean over samples that arrive in client updates.

Source:      percentile bootstrap over whole clusters (Davison & Hinkley, "Bootstrap Methods and
             their Application", 1997, sec. 3.8); Wilson, "Probable Inference, the Law of
             Succession, and Statistical Inference", JASA 1927.
Why:         samples of one update succeed or fail together, so the update is what is resampled;
             and a bootstrap of values that are all equal has width 0, which no small sample earns.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from fedsim.lab.store.figures import ROUGES, Interval

_Z = NormalDist().inv_cdf(0.975)  # 1.95996...


def cluster_interval(
    values: Sequence[Sequence[float]], *, seed: int, resamples: int = 2000, fraction: bool = False
) -> Interval:
    """Return the mean over all samples and its 95 % interval.

    Args:
        values: one inner sequence for each client update, one number for each sample. With a
            single update its samples are resampled instead: the best that can be done, and too
            narrow where they depend on each other.
        seed: the resampling depends on nothing else.
        resamples: how many bootstrap means are drawn.
        fraction: the values are in [0, 1]. Where all are equal the interval is Wilson's, with n
            the number of updates (of samples, when there is one update); Wilson's variance
            p(1 - p) is the largest that values in [0, 1] with mean p can have. Without
            ``fraction`` nothing bounds them, and equal values give an interval of width 0.

    Raises:
        ValueError: no updates, an update without samples, a value that is not finite, or with
            ``fraction`` not in [0, 1], or no resamples.
    """
    _check(values, resamples, fraction)
    clusters = [[value] for value in values[0]] if len(values) == 1 else values
    first = float(clusters[0][0])
    if all(value == first for cluster in clusters for value in cluster):
        # Not resampled: rounding in the sums would tell 0.3 from 0.3.
        low, high = _wilson(first, len(clusters)) if fraction else (first, first)
        return Interval(first, low, high)
    sums = np.array([np.sum(cluster) for cluster in clusters], dtype=np.float64)  # (C,)
    sizes = np.array([len(cluster) for cluster in clusters])  # (C,)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(clusters), size=(resamples, len(clusters)))  # (R, C)
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)  # (R,)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(sums.sum() / sizes.sum()), float(low), float(high))


def metric_interval(name: str, values: Sequence[Sequence[float]], *, seed: int) -> Interval:
    """Return the mean of the metric ``name`` and its 95 % interval, in the metric's own units.

    Every metric has a largest value, so few updates that agree have an interval of some width.

    Args:
        name: of the metric, as ``fedsim.lab.scoring.metrics`` has it.
        values: one inner sequence for each client update, as for :func:`cluster_interval`.
        seed: the resampling depends on nothing else.

    Raises:
        ValueError: as :func:`cluster_interval`.
    """
    most = 100.0 if name in ROUGES else 1.0
    shares = [[value / most for value in cluster] for cluster in values]
    share = cluster_interval(shares, seed=seed, fraction=True)
    return Interval(share.mean * most, share.low * most, share.high * most)


def paired_interval(differences: Sequence[Sequence[float]], *, seed: int, most: float) -> Interval:
    """Return the mean of differences between two measures of the same samples, and its interval.

    Args:
        differences: one inner sequence for each client update, as for :func:`cluster_interval`.
        seed: the resampling depends on nothing else.
        most: no difference can be larger than this, nor smaller than its negative. Where all
            differences are equal the interval is Wilson's for their share of ``most``; where all
            are 0, it reaches as far to both sides as Wilson's would for no success at all.

    Raises:
        ValueError: as :func:`cluster_interval`, or a difference is beyond ``most``.
    """
    shares = [[value / most for value in cluster] for cluster in differences]
    cluster_interval(
        [[abs(value) for value in cluster] for cluster in shares], seed=0, fraction=True
    )
    share = cluster_interval(shares, seed=seed)
    if share.low == share.high:
        updates = len(shares) if len(shares) > 1 else len(shares[0])
        low, high = _wilson(abs(share.mean), updates)
        if share.mean == 0:
            low = -high
        elif share.mean < 0:
            low, high = -high, -low
        share = Interval(share.mean, low, high)
    return Interval(share.mean * most, share.low * most, share.high * most)


def difference_interval(first: Interval, second: Interval) -> Interval:
    """Return the interval of ``first`` minus ``second``, measured on different samples.

    Source: Newcombe, "Interval Estimation for the Difference between Independent Proportions",
    Statistics in Medicine 1998, method 10; for any pair of intervals Zou & Donner, "Construction
    of Confidence Limits about Effect Measures", Statistics in Medicine 2008.
    """
    mean = first.mean - second.mean
    below = ((first.mean - first.low) ** 2 + (second.high - second.mean) ** 2) ** 0.5
    above = ((first.high - first.mean) ** 2 + (second.mean - second.low) ** 2) ** 0.5
    return Interval(mean, mean - below, mean + above)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the ends of the 95 % Wilson score interval for ``successes`` out of ``n``.

    Raises:
        ValueError: ``n`` is not positive, or ``successes`` is not in [0, n].
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be in [0, {n}], got {successes}")
    return _wilson(successes / n, n)


def _wilson(p: float, n: int) -> tuple[float, float]:
    z2 = _Z * _Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)  # Wilson 1927, the two roots in p
    half = _Z * (p * (1 - p) / n + z2 / (4 * n * n)) ** 0.5 / (1 + z2 / n)
    low = centre - half if p > 0 else 0.0  # exact in theory, not after rounding
    high = centre + half if p < 1 else 1.0
    return low, high


def _check(values: Sequence[Sequence[float]], resamples: int, fraction: bool) -> None:
    if not values:
        raise ValueError("an interval needs at least one client update, got none")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    for index, cluster in enumerate(values):
        if not len(cluster):
            raise ValueError(f"every client update needs at least one sample; number {index} has 0")
        for value in cluster:
            if not np.isfinite(value):
                raise ValueError(f"values must be finite, got {value} in client update {index}")
            if fraction and not 0 <= value <= 1:
                raise ValueError(f"a fraction must be in [0, 1], got {value} in update {index}")
