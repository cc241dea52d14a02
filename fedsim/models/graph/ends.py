"""What follows the blocks of a model: its last norm, and the one map that makes its logits."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.models.graph.groups import LINEAR
from fedsim.models.graph.running import near
from fedsim.models.norms import kind_of


@dataclass(frozen=True)
class Ends:
    """The names of the last norm, in the model's body, and of the head, in the whole; or None."""

    norm: str | None
    head: str | None


def find_ends(whole: Any, stack: str, last: nn.Module, tokens: Tensor) -> Ends:
    """Return the last norm and the head of a model, by a run of one sentence (1, T).

    The head is the map whose output the logits are. The norm is what that reads, where what comes
    back from the loss to the norm's input is what comes back to the output of ``last``, a map.
    """
    body = whole.base_model
    norms = {
        part: name
        for name, part in body.named_modules()
        if kind_of(part) is not None and not f"{name}.".startswith(f"{stack}.")
    }
    inside = set(body.modules()) if body is not whole else set()
    heads = {
        part: name
        for name, part in whole.named_modules()
        if isinstance(part, LINEAR) and part not in inside
    }
    read: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(part: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        read[part] = (given[0], made)

    def begin(_: nn.Module, __: Any, made: Tensor) -> Tensor:
        return made.detach().requires_grad_()  # all may be frozen

    hooks = [part.register_forward_hook(note) for part in (*norms, *heads, last)]
    hooks.append(whole.get_input_embeddings().register_forward_hook(begin))
    try:
        with torch.enable_grad():
            logits = whole(input_ids=tokens).logits
    finally:
        for hook in hooks:
            hook.remove()
    head = next((part for part in heads if part in read and _makes(read[part][1], logits)), None)
    if head is None:
        return Ends(None, None)
    states = read[head][0]
    for part in norms:
        if part in read and _alike(read[part][1].flatten(0, -2), states.flatten(0, -2)):
            if last in read and _comes_back(logits, read[last][1], read[part][0]):
                return Ends(norms[part], _unwrapped(heads[head]))
    return Ends(None, _unwrapped(heads[head]))


def _unwrapped(name: str) -> str:
    return name.replace(".modules_to_save.default", "")


def _makes(made: Tensor, logits: Tensor) -> bool:
    """Return whether ``made`` is what the logits are, of all places or of the last."""
    if made.shape[-1] != logits.shape[-1]:
        return False
    made, logits = made.detach().flatten(0, -2), logits.detach().flatten(0, -2)
    return _alike(made[-len(logits) :], logits)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and near(one, other)


@torch.enable_grad()
def _comes_back(logits: Tensor, made: Tensor, states: Tensor) -> bool:
    """Return whether the loss tells a map's output what it tells the states: no more is between."""
    drawn = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
    told = torch.autograd.grad((logits * drawn).sum(), (made, states), allow_unused=True)
    if told[0] is None or told[1] is None or told[0].numel() != told[1].numel():
        return False
    return near(told[0].reshape(-1), told[1].reshape(-1))
