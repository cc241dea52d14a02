"""What the tests of DAGER share: a model, an update of its, and the attack on that."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attacks import Dager
from fedsim.messages import Reconstruction
from fedsim.models import ModelAdapter
from fedsim.types import Tokens
from tests.conftest import Gradient, Observe, initial

PRESETS = ["gpt2-tiny", "llama-tiny"]

Local = Callable[..., dict[str, Tensor]]


class Scene:
    """A model at its initial weights, what a client sends of a batch, and the attack on it."""

    def __init__(self, model: ModelAdapter, gradient: Gradient, observe: Observe) -> None:
        self.model = model
        self.parameters = initial(model)
        self._gradient = gradient
        self._observe = observe
        self.examples = 1

    def update(self, sequences: Sequence[Tokens]) -> dict[str, Tensor]:
        self.examples = len(sequences)
        return self._gradient(self.model, self.parameters, sequences)

    def attack(
        self, update: dict[str, Tensor], *, seed: int = 0, kind: str = "gradient", **settings: Any
    ) -> Reconstruction:
        observation = self._observe(
            self.model, self.parameters, update, examples=self.examples, kind=kind
        )
        return Dager(**settings).reconstruct(observation, torch.Generator().manual_seed(seed))


def exact(guess: Reconstruction, truth: Sequence[Tokens]) -> int:
    return len(set(guess.sequences) & set(truth))
