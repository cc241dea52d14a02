"""The matching engine: dummies' gradients, distances to an observed one, descent; no attack itself.

``Problem`` holds an observed gradient and what is known of the batch, ``Descent`` goes downhill.
"""

from attacks.matching.descent import Descent
from attacks.matching.distances import L2, L2L1, Cosine, Kept, WrongSigns
from attacks.matching.layers import depths, layer_of
from attacks.matching.prior import Prior, check_prior
from attacks.matching.problem import Problem
from attacks.matching.ranking import least
from attacks.matching.reorder import Reorder
from attacks.matching.single import SingleStart
from attacks.matching.tokens import TokenScores, near

__all__ = [
    "L2",
    "L2L1",
    "Cosine",
    "Descent",
    "Kept",
    "Prior",
    "Problem",
    "Reorder",
    "SingleStart",
    "TokenScores",
    "WrongSigns",
    "check_prior",
    "depths",
    "layer_of",
    "least",
    "near",
]
