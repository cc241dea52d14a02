"""Read the longest length off the gradient of learned positions: unused rows are zero."""

from torch import nn

from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation

ABOVE = 2.0  # how far above the unused rows' level a used one is, where noise was added


def read_lengths(seen: Observation) -> int:
    """Return the longest sequence's length in tokens.

    Raises:
        UnsupportedObservation: the update has no gradient of learned positions, or noise hides it.
    """
    name = _positions(seen)
    if name is None or name not in seen.update.tensors:
        raise UnsupportedObservation(
            "matching needs the lengths: grant knowledge.lengths, as the update shows no gradient "
            "of learned positions to read them from"
        )
    rows = seen.update.tensors[name].float().norm(dim=1)  # (P,)
    level = float(rows.min())  # of rows that no text uses: zero, or noise alone
    used = (rows > ABOVE * level).nonzero().flatten()
    if not len(used):
        raise UnsupportedObservation(
            "matching needs the lengths: grant knowledge.lengths, as no row of "
            f"{name!r} stands out from the others"
        )
    around = len(seen.model.prefix) + len(seen.model.suffix)
    unused = seen.model.spec.task == "causal-lm"  # nothing is predicted from a text's last place
    return max(int(used[-1]) + 1 + unused, around + 1)


def _positions(seen: Observation) -> str | None:
    """Return the name of the learned positions' weight, if the model has them."""
    if not seen.model.positional:
        return None
    for name, module in seen.model.module.named_modules():
        size = (seen.model.positions, seen.model.width)
        if isinstance(module, nn.Embedding) and tuple(module.weight.shape) == size:
            return f"{name}.weight"
    return None
