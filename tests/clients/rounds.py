"""A small run's settings, and what tests of a client's round look at."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from clients import ClientSettings
from defenses import Defense
from fedsim.messages import Broadcast
from fedsim.models import ModelSpec
from fedsim.training import Examples, Training, TrainingSettings
from fedsim.types import Parameters
from fedsim.vault.reader import VaultReader

WORDS = "amber basil cedar dune ember flint grove heath iris jade".split()
ROWS = [
    (f"{first} and {second} row {i}", i % 2) for i, first in enumerate(WORDS) for second in WORDS
]
MODEL = ModelSpec(name="builtin:gpt2-tiny", weights="random")


def broadcast(sent: Parameters, round_: int = 1, **training: Any) -> Broadcast:
    config = TrainingSettings(**training).as_config()
    return Broadcast(round=round_, parameters=sent, config=config)


def noted(settings: ClientSettings, round_: int, client: int) -> Examples:
    truth = VaultReader(settings.vault).truth(round_, client)
    assert truth is not None
    return Examples(sequences=truth.sequences, labels=truth.labels)


@dataclass(frozen=True, kw_only=True)
class Spy(Defense):
    """Runs ``inside`` where training would run, or around it."""

    inside: Callable[[Training], Training]

    def wrap(self, training: Training) -> Training:
        return self.inside(training)


def instead(result: Callable[..., Any]) -> Spy:
    return Spy(inside=lambda training: result)


@dataclass(frozen=True, kw_only=True)
class Times(Defense):
    """Multiplies what is sent, after adding noise of its own stream."""

    factor: float

    def protect(self, tensors: Parameters, generator: torch.Generator) -> Parameters:
        noise = torch.rand(1, generator=generator)
        return {name: (t + noise) * self.factor for name, t in tensors.items()}
