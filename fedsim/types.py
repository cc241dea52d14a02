"""The words that every layer shares: tensors by name, token ids, a config's scalars."""

from collections.abc import Mapping

from torch import Tensor

Parameters = Mapping[str, Tensor]
"""Tensors by parameter name, as ``named_parameters`` calls them."""

Scalar = bool | int | float | str
"""What a training config or a metric may hold."""

Tokens = tuple[int, ...]
"""A sequence of token ids, special ones included."""
