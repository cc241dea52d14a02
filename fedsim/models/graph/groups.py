"""The blocks of a model, and their linear maps by the very tensor that they read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedsim.models.spec import Place, Projection

LINEAR = (nn.Linear, Conv1D)
FEW = 2  # linear maps that a block has at least


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block's linear maps; names are those of a model without LoRA's wrappers.

    Attributes:
        groups: maps that read the same tensor, in order of call.
        last: the map that is called last.
    """

    groups: tuple[tuple[Projection, ...], ...]
    last: Projection

    def reads(self, place: Place) -> tuple[Projection, ...]:
        """Return the maps that read ``place``; () where no linear map does.

        Where attention and MLP read the same (parallel blocks), so does what stands for both.
        """
        if place == "hidden":
            return self.groups[0]
        if place == "inner":
            return (self.last,)
        if place == "context":
            return self.groups[1] if len(self.groups) > 1 else ()
        if len({_parent(read.name) for read in self.groups[0]}) > 1:
            return self.groups[0]
        return self.groups[2] if len(self.groups) > 2 else ()

    @property
    def attention(self) -> tuple[str, ...]:
        """What the maps that read the block's input first are called, attention's alone."""
        first = _parent(self.groups[0][0].name)
        own = [read.name for read in self.groups[0] if _parent(read.name) == first]
        return tuple(name.split(".")[-2] for name in own)


def find_stack(module: nn.Module) -> str | None:
    """Return the name of the list of blocks: the outermost list of parts with linear maps."""
    lists = [
        (name.count("."), -len(part), name)
        for name, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and len(part)
        if sum(isinstance(some, LINEAR) for some in part[0].modules()) >= FEW
    ]
    return min(lists)[2] if lists else None


def find_blocks(module: nn.Module, stack: str, tokens: Tensor) -> tuple[Block, ...]:
    """Return the blocks in ``stack`` of a whole model, by a run of sentences (N, T)."""
    parts = list(module.get_submodule(stack).children())
    maps: dict[nn.Module, tuple[int, str]] = {
        part: (place, name)
        for place, block in enumerate(parts)
        for name, part in block.named_modules()
        if isinstance(part, LINEAR) and "lora_" not in name
    }
    calls: list[tuple[nn.Module, tuple[int, int], Tensor]] = []

    def note(part: nn.Module, given: tuple[Tensor, ...]) -> None:
        calls.append((part, (given[0].data_ptr(), given[0].numel()), given[0]))  # held: so unique

    hooks = [part.register_forward_pre_hook(note) for part in maps]
    try:
        with torch.no_grad():
            module(input_ids=tokens)
    finally:
        for hook in hooks:
            hook.remove()
    blocks = []
    for place in range(len(parts)):
        own = [(part, key) for part, key, _ in calls if maps[part][0] == place]
        if own:
            names = {part: f"{stack}.{place}.{maps[part][1]}" for part, _ in own}
            blocks.append(_block(own, names))
    return tuple(blocks)


def _block(
    calls: Sequence[tuple[nn.Module, tuple[int, int]]], names: dict[nn.Module, str]
) -> Block:
    """Return the block of which ``calls`` tell, in order, what each map read.

    A map that read something else besides (DeBERTa's keys: relative positions) is left out where
    another tells: its gradient is of both.
    """
    tensors: dict[tuple[int, int], dict[nn.Module, None]] = {}
    for part, key in calls:
        tensors.setdefault(key, {})[part] = None
    often = {part for part in names if sum(part in group for group in tensors.values()) > 1}
    groups = []
    for group in tensors.values():
        once = [part for part in group if part not in often]
        if chosen := once or [part for part in group if len(often) == len(names)]:
            groups.append(tuple(_projection(names[part], part) for part in chosen))
    return Block(groups=tuple(groups), last=_projection(names[calls[-1][0]], calls[-1][0]))


def _projection(name: str, part: nn.Module) -> Projection:
    flipped = isinstance(part, Conv1D)
    return Projection(f"{name.replace('.base_layer', '')}.weight", input_axis=0 if flipped else 1)


def _parent(name: str) -> str:
    return name.rsplit(".", 2)[0]


def last_parts(names: Iterable[str]) -> tuple[str, ...]:
    """Return the last part of each of ``names``, each once."""
    return tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))
