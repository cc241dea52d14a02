"""A small run's settings, and what tests of a client's round look at."""

import json
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

WORDS = "amber basil cedar dune ember flint grove heath iris jade".split()
ROWS = [
    (f"{first} and {second} row {i}", i % 2) for i, first in enumerate(WORDS) for second in WORDS
]
MODEL = ModelSpec(name="builtin:gpt2-tiny", weights="random")


def broadcast(sent: Parameters, round_: int = 1, **training: Any) -> Broadcast:
    config = TrainingSettings(**training).as_config()
    return Broadcast(round=round_, parameters=sent, config=config)


def vault(settings: ClientSettings, round_: int, client: int) -> list[dict[str, Any]]:
    path = settings.vault / f"round={round_}" / f"client={client}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def noted(settings: ClientSettings, round_: int, client: int) -> Examples:
    rows = vault(settings, round_, client)
    return Examples(
        sequences=tuple(tuple(row["tokens"]) for row in rows),
        labels=tuple(row["label"] for row in rows),
    )


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
