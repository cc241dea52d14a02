"""What is left where an encoder's sentences cannot be told: its tokens, in no order.

Block 0's span tells which tokens were in the batch, and where positions are learned, where each
stood. Attention that is not known in the open leaves it at that, and so does a later layer whose
span is too noisy to tell an order.
"""

import torch

from attacks.base import Notes
from attacks.dager import thresholds
from attacks.dager.gates import Gates
from fedsim.models import ModelAdapter
from fedsim.types import Tokens


def orderless(gates: Gates) -> bool:
    """Return whether attention is all that tells a sentence's order, or is not known."""
    return gates.opening is None or gates.single.positions == 1


def read_tokens(model: ModelAdapter, gates: Gates, notes: Notes) -> tuple[Tokens, ...]:
    """Return one sequence of the tokens of all texts, in order of position where that is told.

    Of several at one position the nearest to the span stands for all.
    """
    longest = min(gates.single.positions, gates.inner.span.rank)
    found: dict[int, None] = {}
    chosen = list[int]()
    for place in range(longest if gates.single.positions > 1 else 1):
        tokens = gates.tokens.at(place)
        if (
            len(tokens) > gates.entry.span.rank + thresholds.LOOK
        ):  # the span holds all that there is
            return ()
        if not len(tokens):
            break
        found |= dict.fromkeys(tokens.tolist())
        near = gates.near(tokens, torch.full_like(tokens, place)).cpu()
        chosen.append(int(tokens[near.argmin()]))
    notes |= {"candidates": len(found), "cut": True, "alike": 0, "above_floor": 0}
    tokens_read = chosen if gates.single.positions > 1 else sorted(found)
    special = model.special  # once: the tokenizer gathers them anew each time
    inner = [token for token in tokens_read if token not in special]
    return ((*model.prefix, *inner, *model.suffix),) if inner else ()
