"""The words that every layer shares: tensors by name, token ids, a config's scalars."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

Parameters = Mapping[str, Tensor]
"""Tensors by parameter name, as ``named_parameters`` calls them."""

Kind = Literal["span", "matching", "learned", "membership", "analytic"]
"""What an attack goes by: the span of what a map reads; an update of dummy texts that matches the
client's; a network that learned to invert; candidates that it is asked about; what an update says
by itself, as rows of the embeddings do."""

Reads = Literal["texts", "types", "tokens", "labels"]
"""What an attack's sequences are. Texts; or of a whole batch, in no order: its tokens, once each or
as often as they are there, or a classifier's labels."""

Scalar = bool | int | float | str
"""What a training config or a metric may hold."""

Tokens = tuple[int, ...]
"""A sequence of token ids, special ones included."""
