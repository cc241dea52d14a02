"""How many examples have each label, by what came back to a classifier's logits from the loss.

With cross-entropy dL/dlogits of one example is p - y, for its label's y; summed over m examples it
is m p - c, where p is their mean (of one text: its own) and c counts their labels. So c is m p less
that sum, and whole.
"""

from torch import Tensor


def label_counts(
    chances: Tensor, slopes: Tensor, examples: Tensor | int, near: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return the counts (..., K), and whether all of them come out whole and >= 0 (...).

    Args:
        chances: p, the mean label probabilities of the examples: (..., K).
        slopes: the sum of dL/dlogits over them, at the scale of one example's loss: (..., K).
        examples: m: (..., 1).
        near: how far a count may be from a whole number.
    """
    counts = examples * chances - slopes
    whole = counts.round()
    clear = ((counts - whole).abs() < near) & (whole >= 0)  # false of a NaN
    return whole, clear.all(dim=-1)
