"""Where a parameter is in a model, by its name."""

import re
from collections.abc import Iterable

from fedsim.models import ModelAdapter


def layer_of(model: ModelAdapter, name: str) -> int | None:
    """Return the block that the parameter called ``name`` is in; None: it is in none."""
    match = re.search(rf"(?:^|\.){model.stack}\.(\d+)\.", name)
    return int(match[1]) if match else None


def depths(model: ModelAdapter, names: Iterable[str]) -> dict[str, float]:
    """Return how deep each parameter is: 0 for embeddings and block 0, 1 for the last and after.

    What is in no block is before or after all, as the module lists it.
    """
    order = [name for name, _ in model.module.named_parameters()]
    first = next(place for place, name in enumerate(order) if layer_of(model, name) is not None)
    last, depth_of = max(1, model.layers - 1), {}
    for name in names:
        layer = layer_of(model, name)
        if layer is None:
            layer = 0 if order.index(name) < first else last
        depth_of[name] = layer / last
    return depth_of
