"""How a client trains: the settings that travel, and the shape of a training that defenses wrap."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import ceil
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from fedsim.errors import MalformedMessage
from fedsim.models import ModelAdapter
from fedsim.types import Parameters, Scalar, Tokens

Algorithm = Literal["fedsgd", "fedavg"]
Optimizer = Literal["sgd", "momentum", "adamw"]
Scheduler = Literal["constant", "linear", "cosine"]
WireDtype = Literal["float32", "float16"]
ComputeDtype = Literal["float32", "bfloat16"]
MOMENTUM = 0.9  # of the optimizer of that name
WORDS: dict[str, tuple[str, ...]] = {
    "algorithm": get_args(Algorithm),
    "optimizer": get_args(Optimizer),
    "lr_scheduler": get_args(Scheduler),
    "wire_dtype": get_args(WireDtype),
    "compute_dtype": get_args(ComputeDtype),
}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a server tells its clients about a round's training."""

    algorithm: Algorithm = "fedsgd"  # fedsgd uploads a gradient, fedavg a delta
    local_epochs: int = 1  # fedavg only
    max_steps: int = 0  # local steps in place of local epochs, over and over; fedavg only; 0: none
    mini_batch_size: int = 4  # examples a local step, fedavg only
    learning_rate: float = 1e-2  # of the local steps (fedavg) or of the server's (fedsgd)
    optimizer: Optimizer = "sgd"  # fedavg only; momentum 0.9, AdamW with torch's defaults
    weight_decay: float = 0.0  # of sgd and momentum; AdamW's is torch's 0.01 where this is 0
    max_grad_norm: float = 0.0  # a step's gradient is scaled down to this norm; 0: none is
    lr_scheduler: Scheduler = "constant"  # of the learning rate within a round, down to 0
    warmup_steps: int = 0  # local steps over which the learning rate rises from 0, first
    dropout: bool = False  # True: the model's own rates
    wire_dtype: WireDtype = "float32"  # of the update
    compute_dtype: ComputeDtype = "float32"  # bfloat16: autocast, weights stay float32
    proximal_mu: float = 0.0  # FedProx's weight of ||θ - θ_global||² / 2, set by its strategy

    def __post_init__(self) -> None:
        kinds: dict[type, Any] = {int: int, float: (int, float), bool: bool}
        for setting in fields(self):
            value, default = getattr(self, setting.name), setting.default
            words = WORDS.get(setting.name)
            fits = value in words if words else isinstance(value, kinds[type(default)])
            if not fits:
                wanted = " or ".join(words) if words else type(default).__name__
                raise MalformedMessage(f"training.{setting.name} must be {wanted}, got {value!r}")
        for name in ("local_epochs", "mini_batch_size"):
            if getattr(self, name) < 1:  # a loop over no steps would never come to one
                raise MalformedMessage(f"training.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("max_steps", "warmup_steps", "max_grad_norm"):
            if not getattr(self, name) >= 0:
                raise MalformedMessage(f"training.{name} must be >= 0, got {getattr(self, name)}")

    def steps(self, examples: int) -> int:
        """Return how many local steps of FedAvg a client with so many examples takes in a round."""
        return self.max_steps or self.local_epochs * self.steps_an_epoch(examples)

    def steps_an_epoch(self, examples: int) -> int:
        """Return how many mini-batches so many examples make; an empty batch is one, too."""
        return ceil(max(1, examples) / self.mini_batch_size)

    def as_config(self) -> dict[str, Scalar]:
        """Return the settings as a training config's scalars."""
        return {setting.name: getattr(self, setting.name) for setting in fields(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Scalar]) -> "TrainingSettings":
        """Return the settings a server sent; keys of other owners are left alone."""
        names = {setting.name for setting in fields(cls)}
        known: dict[str, Any] = {k: v for k, v in config.items() if k in names}
        return cls(**known)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What a client trains on in one round."""

    sequences: tuple[Tokens, ...]  # token ids, special tokens included
    labels: tuple[int | None, ...]
    steps: tuple[tuple[int, ...], ...] | None = None  # rows of each local step; None: shuffle them

    def __len__(self) -> int:
        return len(self.sequences)

    def take(self, rows: list[int]) -> "Examples":
        """Return the examples in ``rows``, in that order."""
        return Examples(
            sequences=tuple(self.sequences[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
        )


Gradient = Callable[[nn.Module, ModelAdapter, Examples, torch.Generator], float]
"""Leaves a batch's gradient in the parameters' ``grad`` and returns the loss it saw."""


def mean_gradient(
    module: nn.Module, adapter: ModelAdapter, examples: Examples, generator: torch.Generator
) -> float:
    """Leave the gradient of the model's own loss, a mean over the batch."""
    batch = adapter.batch(examples.sequences, examples.labels, generator)
    loss: Tensor = module(**batch).loss
    loss.backward()
    return loss.item()


class Training(Protocol):
    """A client's training: from the broadcast weights and its examples to the raw update."""

    def __call__(
        self, parameters: Parameters, examples: Examples, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], float]:
        """Return the update's tensors by parameter name, and the mean loss it saw."""
        ...
