"""What an attack that knows the defense does about it; one that does not is oblivious.

Source: Wu et al., "Learning to Invert", arXiv:2210.10880v1, App. A.1 (signs, pruning); clipping
        follows from its definition: the dummies' gradients are clipped as the client's are.
"""

from attacks.matching.distances import L2L1, Distance, Kept, Signs
from fedsim.messages import Observation

ZEROED = ("topk", "random-mask")  # defenses that set entries to zero


def adapted(distance: Distance, seen: Observation) -> Distance:
    """Return ``distance``, or what takes its place against the defenses known to be in force."""
    names = [one.name for one in seen.knowledge.defense or ()]
    if "sign" in names:
        l1 = max(distance.l1.values(), default=0.0) if isinstance(distance, L2L1) else 0.0
        distance = Signs(l1=l1)
    return Kept(distance=distance) if any(one in ZEROED for one in names) else distance


def share_of(seen: Observation) -> float:
    """Return what undoes the scale of a random mask that is known: the share that it keeps."""
    share = 1.0
    for one in seen.knowledge.defense or ():
        if one.name == "random-mask":
            share *= float(one.numbers.get("fraction", 1.0))
    return share


def clip_of(seen: Observation) -> float | None:
    """Return the norm that each example's gradient is clipped to, where that is known."""
    for one in seen.knowledge.defense or ():
        if one.name == "dp-sgd" and "clip" in one.numbers:
            return float(one.numbers["clip"])
    return None
