"""What every result is told in: a mean with its interval, and a verdict."""

from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["leak", "no-leak", "inconclusive"]

VERDICT_METRIC: Final = "bag_f1"
"""What a verdict compares: token ids, so it works for any script, and with order ignored any token
that was read beyond chance is a leak."""


COUNTED: Final = "counted_f1"
"""What it compares of an attack that says what is in a batch, in no order and of no text."""

COUNTS: Final = ("counted_precision", "counted_recall", COUNTED)
"""All that there is of such an attack; without a guess no precision."""

ROUGES: Final = ("rouge1", "rouge2", "rougeL")
"""x 100, all other metrics are fractions; a text without a word has none."""

PRECISION: Final = {"precision": "exact_match", "precision_but_last": "exact_match_but_last"}
"""The share of an attack's guesses that are right, and what right is; absent where it made none.
The second beside the first where an update carries no sequence's last token."""


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % interval, in the units of the values."""

    mean: float
    low: float
    high: float
