"""What an attack that knows the defense does about it; one that does not is oblivious.

Source: Wu et al., "Learning to Invert", arXiv:2210.10880v1, App. A.1 (signs, pruning); clipping
        follows from its definition: the dummies' gradients are clipped as the client's are.
"""

from attacks.matching.distances import L2L1, Distance, Kept, WrongSigns
from attacks.reads import told
from fedsim.effects import Signs, Zeroes
from fedsim.messages import Observation


def adapted(distance: Distance, observation: Observation) -> Distance:
    """Return ``distance``, or what takes its place against the effects that are known."""
    if told(observation, Signs):
        l1 = max(distance.l1.values(), default=0.0) if isinstance(distance, L2L1) else 0.0
        distance = WrongSigns(l1=l1)
    return Kept(distance=distance) if told(observation, Zeroes) else distance
