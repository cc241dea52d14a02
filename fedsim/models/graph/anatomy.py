"""What a run on random tokens tells of a model: blocks, ends, and how tokens see each other."""

import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from fedsim.errors import UnsupportedObservation
from fedsim.models.graph.ends import Ends, find_ends
from fedsim.models.graph.groups import Block, find_blocks, find_stack, last_parts
from fedsim.models.graph.running import near, read_by

LENGTH = 12  # tokens of a sentence that is tried
WINDOW = 512  # a sliding window up to that is seen whole


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """A model's parts; names are those of a model without LoRA's wrappers.

    Attributes:
        path: the list of blocks, in the whole model.
        blocks: what each block's linear maps read.
        causal: a token sees only those before it.
        positional: what block 0 reads depends on the position.
        first_position: the id of the first position; None: the model takes no ids of positions.
        mixes: what block 0's MLP reads depends on the tokens before, so that prefixes show there.
        cached: keys and values of a prefix give what the prefix gives.
        ends: the last norm and the head.
        embeddings: the names of the embeddings outside of the blocks.
        beside: the names of what stands beside the body: the head's parts.
    """

    path: str
    blocks: tuple[Block, ...]
    causal: bool
    positional: bool
    first_position: int | None
    mixes: bool
    cached: bool
    ends: Ends
    embeddings: tuple[str, ...]
    beside: tuple[str, ...]

    @property
    def stack(self) -> str:
        """The last part of the name of the list of blocks."""
        return last_parts([self.path])[0]

    def facts(self, task: str) -> dict[str, Any]:
        """Return what a family would say of the model, by the names that it says it with."""
        ends = self.ends
        return {
            "causal": self.causal,
            "positional": self.positional,
            "first_position": self.first_position,
            "groups": {
                "embeddings": tuple(f"*{name}.*" for name in self.embeddings),
                "head": tuple(f"*{name}.*" for name in self.beside),
            },
            "attention": self.blocks[0].attention,
            "stack": self.stack,
            "heads": {} if ends.head is None else {task: ends.head},
            "last_norm": ends.norm,
        }


@torch.no_grad()
def discover(whole: Any) -> Anatomy:
    """Return the parts of a model in evaluation mode, free of LoRA's outer wrapper.

    Raises:
        UnsupportedObservation: it has no list of blocks with linear maps.
    """
    config, base = whole.config, whole.base_model
    tokens = some_tokens(config).to(whole.device)
    inside = find_stack(base)
    if inside is None:
        raise UnsupportedObservation("it has no list of blocks of linear maps")
    above = next(name for name, part in whole.named_modules() if part is base)
    path = f"{above}.{inside}" if above else inside
    blocks = find_blocks(whole, path, tokens)
    if not blocks:
        raise UnsupportedObservation(f"no linear map of its blocks, {path}, is ever called")
    parts: dict[str, nn.Module] = dict(whole.named_modules())

    def module_of(name: str) -> nn.Module:
        return parts[name.removesuffix(".weight")]

    first = module_of(blocks[0].groups[0][0].name)
    causal = _is_causal(base, tokens)
    row = tokens[:, :1].expand(1, LENGTH)
    read = read_by(base, first, row)
    positional = not near(read[:, 0], read[:, 1])
    middle = blocks[0].reads("middle")
    mixes = bool(middle) and _mixes(base, module_of(middle[0].name), tokens)
    later = [block.groups[0][0] for block in blocks[1:2]] + list(middle[:1] if mixes else ())
    last = module_of(blocks[-1].last.name)
    return Anatomy(
        path=path,
        blocks=blocks,
        causal=causal,
        positional=positional,
        first_position=_first_position(base, first, tokens, config.pad_token_id or 0),
        mixes=mixes,
        cached=causal and all(_is_cached(base, module_of(read.name), tokens) for read in later),
        ends=find_ends(whole, inside, last, tokens),
        embeddings=tuple(
            name
            for name, part in base.named_modules()
            if isinstance(part, nn.Embedding) and not name.startswith(f"{inside}.")
        ),
        beside=tuple(
            name
            for name, part in whole.named_children()
            if part is not base and next(part.parameters(), None) is not None
        ),
    )


def some_tokens(config: Any) -> Tensor:
    """Return a sentence (1, T) of different tokens that a sliding window does not hold whole."""
    window = getattr(config, "sliding_window", None) or 0
    length = window + 3 if LENGTH <= window <= WINDOW else LENGTH
    drawn = torch.randperm(config.vocab_size, generator=torch.Generator().manual_seed(0)).tolist()
    special = {config.pad_token_id, config.bos_token_id, config.eos_token_id}
    return torch.tensor([[token for token in drawn if token not in special][:length]])


def _states(base: nn.Module, tokens: Tensor, **given: Any) -> Tensor:
    states: Tensor = base(input_ids=tokens, **given).last_hidden_state
    return states


def _is_causal(base: nn.Module, tokens: Tensor) -> bool:
    """Return whether a later token changes no earlier state."""
    other = tokens.clone()
    other[:, -1] = tokens[:, 0]
    return near(_states(base, tokens)[:, :-1], _states(base, other)[:, :-1])


def _mixes(base: nn.Module, part: nn.Module, tokens: Tensor) -> bool:
    """Return whether what ``part`` reads at a place depends on the token before."""
    other = tokens.clone()
    other[:, -2] = tokens[:, 0]
    return not near(read_by(base, part, tokens)[:, -1], read_by(base, part, other)[:, -1])


def _first_position(base: nn.Module, first: nn.Module, tokens: Tensor, pad: int) -> int | None:
    """Return the id of the first position: with ids from there on all is as it is without."""
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return None
    wanted, read = _states(base, tokens), read_by(base, first, tokens)
    for start in dict.fromkeys((0, pad + 1, 2)):
        places = torch.arange(start, start + tokens.shape[1], device=tokens.device)[None]
        try:
            if near(_states(base, tokens, position_ids=places), wanted):
                alone = read_by(base, first, tokens[:, 5:6], position_ids=places[:, 5:6])
                return start if near(alone[:, 0], read[:, 5]) else None
        except (IndexError, TypeError, ValueError, RuntimeError):  # too far, or not taken
            continue
    return None


def _is_cached(base: nn.Module, part: nn.Module, tokens: Tensor) -> bool:
    """Return whether ``part`` reads the same of a sentence by keys and values of its beginning."""
    wanted, cache = read_by(base, part, tokens), DynamicCache()
    ends, read = [0, tokens.shape[1] - 2, tokens.shape[1] - 1, tokens.shape[1]], []
    try:
        for start, end in pairwise(ends):
            mask = torch.ones_like(tokens[:, :end])
            given = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
            read.append(read_by(base, part, tokens[:, start:end], **given))
    except (IndexError, TypeError, ValueError, RuntimeError, AttributeError):
        return False
    return cache.get_seq_length() == tokens.shape[1] and near(torch.cat(read, dim=1), wanted)
