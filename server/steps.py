"""What an update makes of the weights that were sent: a delta is added, a gradient is a step."""

import numpy as np
from flwr.app import Array

from fedsim.messages import UpdateKind
from fedsim.tap.arrays import view


def step_of(kind: UpdateKind, learning_rate: float) -> float:
    """Return what an update of ``kind`` is multiplied by before it is added to the weights."""
    return 1.0 if kind == "delta" else -learning_rate


def moved(sent: Array, update: np.ndarray, step: float) -> np.ndarray:
    """Return ``sent + step * update`` as an array like ``sent``; infinite where that is too large.

    The step is taken in float64.
    """
    weights = view(sent)
    with np.errstate(over="ignore"):
        far: np.ndarray = update.astype(np.float64)
        far *= step
        far += weights
        return far.astype(weights.dtype)


def like(values: np.ndarray, sent: Array) -> np.ndarray:
    """Return ``values`` in the type of what was sent; themselves where they have it."""
    return values.astype(sent.dtype, copy=False)
