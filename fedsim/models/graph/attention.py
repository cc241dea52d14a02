"""What attention of block 0 is given, of any model that calls transformers' attention functions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "fedsim"  # of the attention function that says what it was given
AT_ONCE = 4096  # inputs that are run together


class Attended(Exception):
    """An attention function was called: with (N, H, T, E) queries, (N, G, T, E) keys and values."""

    def __init__(self, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> None:
        super().__init__("attention was called")
        self.given = (queries, keys, values)
        self.scale = scale


def _tell(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    raise Attended(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling)


AttentionInterface.register(NAME, _tell)
AttentionMaskInterface.register(NAME, eager_mask)


@dataclass(frozen=True)
class Attention:
    """Block 0's attention, for inputs in place of what its maps would read.

    Attributes:
        base: the model without its head.
        maps: those that read the block's input first.
        first_position: the id of the first position; None: the model takes none.
    """

    base: Any
    maps: tuple[nn.Module, ...]
    first_position: int | None

    def given(self, vectors: Tensor, positions: Tensor) -> Attended | None:
        """Return what attention is given for inputs (N, D) at positions (N,), each alone.

        None where the model calls no attention function of transformers'.
        """
        told: dict[str, Any] = {}
        if self.first_position is not None:
            told["position_ids"] = (positions + self.first_position)[:, None].to(vectors.device)
        tokens = torch.zeros(len(vectors), 1, dtype=torch.int64, device=vectors.device)
        with self._replaced(vectors[:, None]), _telling(self.base.config):
            try:
                self.base(input_ids=tokens, **told)
            except Attended as attended:
                return attended
        return None

    def heads(self, vectors: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries (N, H, E), keys and values (N, G, E) of inputs (N, D)."""
        made = []
        for some, there in zip(vectors.split(AT_ONCE), positions.split(AT_ONCE), strict=True):
            attended = self.given(some, there)
            assert attended is not None
            made.append([part[:, :, 0] for part in attended.given])
        q, k, v = (torch.cat(parts) for parts in zip(*made, strict=True))
        return q, k, v

    @contextmanager
    def _replaced(self, vectors: Tensor) -> Iterator[None]:
        hooks = [part.register_forward_pre_hook(lambda *_: (vectors,)) for part in self.maps]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _telling(config: Any) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
