"""Whether tensors are numbers: told by their least and greatest, in one pass and no memory."""

import math
from collections.abc import Iterable

from torch import Tensor


def finite(tensor: Tensor) -> bool:
    """Return whether no value of ``tensor`` is NaN or infinite."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    least, greatest = tensor.detach().aminmax()  # NaN where any value is
    return math.isfinite(least) and math.isfinite(greatest)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether no value of any of ``tensors`` is NaN or infinite."""
    return all(map(finite, tensors))
