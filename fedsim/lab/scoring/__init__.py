"""Scores: what was read against the truth, beside its controls, with a verdict."""

from fedsim.lab.scoring.batch import score
from fedsim.lab.scoring.scored import Scored, means
from fedsim.lab.scoring.scorer import Scorer

__all__ = ["Scored", "Scorer", "means", "score"]
