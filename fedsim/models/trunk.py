"""The first blocks of a model: what an attack runs candidate tokens and prefixes through."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from fedsim.models.workspace import Workspace

Past = DynamicCache | Tensor
"""What stands for N prefixes: their keys and values, or their tokens (N, T)."""


class Trunk:
    """The embeddings and first ``depth`` blocks, ending in the input of the next block's q, k, v.

    That is f0(token, position) of DAGER for ``depth`` 0 and f1(prefix) for ``depth`` 1.
    """

    def __init__(self, workspace: Workspace, module: nn.Module) -> None:
        self._workspace = workspace
        self._module = module
        self._lease = workspace.lease()

    @torch.no_grad()
    def inputs(
        self, tokens: Tensor, *, first: int = 0, past: Past | None = None
    ) -> tuple[Tensor, Past | None]:
        """Return the hidden states that the next block's q, k, v read, and keys and values so far.

        Args:
            tokens: (N, T) int64.
            first: the position of ``tokens[:, 0]``; with ``past``, the length of the prefix.
            past: keys and values of the N prefixes, which this call extends in place.

        Returns:
            (N, T, D) float32 on the workspace's device, and ``past`` with the new tokens added
            (None for encoders).
        """
        self._lease.check(self)
        assert not isinstance(past, Tensor)  # families' blocks all keep keys and values
        device = self._workspace.device
        tokens = tokens.to(device)
        positions = torch.arange(first, first + tokens.shape[1], device=device)
        extra: dict[str, Any] = {}
        if self._workspace.causal:
            extra = {"past_key_values": past or DynamicCache(), "use_cache": True}
        length = tokens.shape[1] + (past.get_seq_length() if past is not None else 0)
        output = self._module(
            input_ids=tokens,
            attention_mask=torch.ones(len(tokens), length, dtype=torch.int64, device=device),
            position_ids=positions.expand(tokens.shape),
            **extra,
        )
        return output.last_hidden_state, extra.get("past_key_values")


def select(past: Past, rows: Tensor) -> Past:
    """Return what stands for the prefixes in ``rows`` (K,), in order; ``past`` stays."""
    if isinstance(past, Tensor):
        return past[rows.to(past.device)]
    chosen = DynamicCache()
    for place, layer in enumerate(past.layers):
        if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None:
            chosen.update(layer.keys[rows], layer.values[rows], place)
    return chosen


def shell(module: nn.Module, **parts: nn.Module | None) -> nn.Module:
    """Return a module that shares all of ``module`` but has ``parts`` in place of some children."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    for name, part in parts.items():
        twin._modules[name] = part
    return twin
