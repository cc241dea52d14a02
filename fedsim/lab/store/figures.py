"""What every result is told in: a mean with its interval, and a verdict."""

from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["leak", "no-leak", "inconclusive"]

VERDICT_METRIC: Final = "bag_f1"
"""What a verdict compares: token ids, so it works for any script, and with order ignored any token
that was read beyond chance is a leak."""


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % interval, in the units of the values."""

    mean: float
    low: float
    high: float
