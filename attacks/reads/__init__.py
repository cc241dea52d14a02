"""What any update tells, by itself or with what is known of the defenses; every attack reads here.

gradient: of a delta, too. decay: of its weights. slopes: of a classifier's loss. counts, labels:
which are in the batch. lengths: of its texts. effects: of the defenses that the attack is told of.
"""

from attacks.reads.counts import label_counts
from attacks.reads.decay import shown_decay
from attacks.reads.effects import clip_of, share_of, told
from attacks.reads.gradient import example_share, gradient_of, observed_gradient, shares_are_even
from attacks.reads.labels import read_labels
from attacks.reads.lengths import read_lengths
from attacks.reads.slopes import Slope, find_slope

__all__ = [
    "Slope",
    "clip_of",
    "example_share",
    "find_slope",
    "gradient_of",
    "label_counts",
    "observed_gradient",
    "read_labels",
    "read_lengths",
    "share_of",
    "shares_are_even",
    "shown_decay",
    "told",
]
