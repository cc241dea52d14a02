"""What any update tells, by itself or with what is known of the defenses; every attack reads here.

gradient: of a delta, too. decay: of its weights. slopes: of a classifier's loss. counts, labels:
which are in the batch. lengths: of its texts. rows: which tokens are in it, by those of the word
embeddings that moved; clock: and in which local step of Adam's. targets: which tokens a next-token
loss predicts, and how often. effects: of the defenses that the attack is told of.
"""

from attacks.reads.clock import Dated, read_clock
from attacks.reads.counts import label_counts
from attacks.reads.decay import decay_of, shown_decay
from attacks.reads.effects import clip_of, share_of, told
from attacks.reads.gradient import example_share, gradient_of, observed_gradient, shares_are_even
from attacks.reads.labels import batch_labels, read_labels
from attacks.reads.lengths import read_lengths
from attacks.reads.rows import MovedRows, embedding_of, moved_rows
from attacks.reads.slopes import Slope, find_slope
from attacks.reads.spoken import Spoken, spoken
from attacks.reads.targets import Targets, read_targets

__all__ = [
    "Dated",
    "MovedRows",
    "Slope",
    "Spoken",
    "Targets",
    "batch_labels",
    "clip_of",
    "decay_of",
    "embedding_of",
    "example_share",
    "find_slope",
    "gradient_of",
    "label_counts",
    "moved_rows",
    "observed_gradient",
    "read_clock",
    "read_labels",
    "read_lengths",
    "read_targets",
    "share_of",
    "shares_are_even",
    "shown_decay",
    "spoken",
    "told",
]
