"""A strategy's own state, so that a resumed run goes on where it stopped.

Flower has no resume. FedOpt and FedAvgM keep moments between rounds as plain attributes; whatever
arrays a strategy holds are saved by name and put back. ``current_arrays`` is set anew each round.
"""

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy
from torch import Tensor

TRANSIENT = "current_arrays"


def save_state(strategy: Strategy) -> dict[str, Tensor]:
    """Return the arrays that ``strategy`` keeps between rounds, as ``attribute/key`` -> tensor."""
    saved: dict[str, Tensor] = {}
    for attribute, value in vars(strategy).items():
        if attribute == TRANSIENT:
            continue
        if isinstance(value, list):
            value = {str(place): item for place, item in enumerate(value)}
        if isinstance(value, dict):
            arrays = {k: array for k, array in value.items() if isinstance(array, np.ndarray)}
            saved |= {
                f"{attribute}/{k}": torch.from_numpy(array.copy()) for k, array in arrays.items()
            }
    return saved


def load_state(strategy: Strategy, saved: dict[str, Tensor]) -> None:
    """Put back what :func:`save_state` returned into a new strategy of the same kind."""
    grouped: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in saved.items():
        attribute, key = name.split("/", 1)
        grouped.setdefault(attribute, {})[key] = tensor.numpy().copy()
    for attribute, arrays in grouped.items():
        if set(arrays) == {str(place) for place in range(len(arrays))}:
            setattr(strategy, attribute, [arrays[str(place)] for place in range(len(arrays))])
        else:
            setattr(strategy, attribute, arrays)
