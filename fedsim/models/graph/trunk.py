"""The first blocks of any model: it is run until what is asked for has been read."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from typing_extensions import override

from fedsim.models.graph.anatomy import Anatomy
from fedsim.models.graph.running import read_by
from fedsim.models.trunk import Past, Trunk
from fedsim.models.workspace import Workspace


class GraphTrunk(Trunk):
    """What a map reads of sentences, by a run of the model that ends there."""

    def __init__(
        self, workspace: Workspace, base: nn.Module, part: nn.Module, anatomy: Anatomy
    ) -> None:
        super().__init__(workspace, base)
        self._part = part
        self._anatomy = anatomy

    @override
    @torch.no_grad()
    def inputs(
        self, tokens: Tensor, *, first: int = 0, past: Past | None = None
    ) -> tuple[Tensor, Past | None]:
        """Return what the map reads, and what stands for the prefixes so far.

        That is their keys and values where these give what the prefixes give, else their tokens.
        """
        self._lease.check(self)
        tokens = tokens.to(self._workspace.device)
        if isinstance(past, DynamicCache) or (self._anatomy.cached and past is None and not first):
            cache = past if isinstance(past, DynamicCache) else DynamicCache()
            mask = tokens.new_ones(len(tokens), cache.get_seq_length() + tokens.shape[1])
            given: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
            read = read_by(self._module, self._part, tokens, attention_mask=mask, **given)
            return read, cache if cache.get_seq_length() else tokens
        if past is None and first:
            return read_at(self._module, self._part, tokens, first, self._anatomy), None
        whole = tokens if past is None else torch.cat([past, tokens], dim=1)
        read = read_by(self._module, self._part, whole, attention_mask=torch.ones_like(whole))
        return read[:, whole.shape[1] - tokens.shape[1] :], whole if self._anatomy.causal else None


@torch.no_grad()
def read_at(
    base: nn.Module, part: nn.Module, tokens: Tensor, first: int, anatomy: Anatomy
) -> Tensor:
    """Return what ``part``, before any attention, reads of tokens (N, T) from ``first`` on."""
    if not anatomy.positional or not first:
        return read_by(base, part, tokens)
    if anatomy.first_position is None:
        before = tokens[:, :1].expand(-1, first)
        return read_by(base, part, torch.cat([before, tokens], dim=1))[:, first:]
    places = torch.arange(first, first + tokens.shape[1], device=tokens.device)
    places = (places + anatomy.first_position).expand(tokens.shape)
    return read_by(base, part, tokens, position_ids=places)
