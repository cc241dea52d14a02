"""What the tests of attacks share: a client's update by the client's own code, and the truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.local import LocalTraining
from fedsim.messages import Broadcast, Knowledge, Observation, Update
from fedsim.models import ModelAdapter
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Tokens
from tests.attacks.scene import Local, Scene
from tests.conftest import initial


@dataclass(frozen=True)
class Batch:
    """A batch of a client, and the observation of its update."""

    observation: Observation
    sequences: tuple[Tokens, ...]
    labels: tuple[int, ...]

    @property
    def ids(self) -> Tensor:
        """(B, T) the true tokens, padded on the right."""
        longest = max(map(len, self.sequences))
        pad = self.observation.model.pad
        rows = [[*tokens, *[pad] * (longest - len(tokens))] for tokens in self.sequences]
        return torch.tensor(rows)


Look = Callable[..., Batch]


def random_texts(model: ModelAdapter, lengths: tuple[int, ...], seed: int = 0) -> list[Tokens]:
    """Return sequences of random tokens of these lengths, special ones included."""
    generator = torch.Generator().manual_seed(seed)
    around = len(model.prefix) + len(model.suffix)
    return [
        (
            *model.prefix,
            *torch.randint(300, len(model.tokenizer), (n - around,), generator=generator).tolist(),
            *model.suffix,
        )
        for n in lengths
    ]


@pytest.fixture(scope="session")
def look() -> Look:
    """Return what the server sees of a client that trains by the project's own code."""

    def see(
        model: ModelAdapter,
        lengths: tuple[int, ...],
        *,
        granted: tuple[str, ...] = ("labels", "lengths"),
        labels: tuple[int, ...] | None = None,
        seed: int = 0,
        **training: Any,
    ) -> Batch:
        sequences = tuple(random_texts(model, lengths, seed))
        labels = labels or tuple(row % model.spec.num_labels for row in range(len(sequences)))
        settings = TrainingSettings(**training)
        parameters = initial(model)
        tensors, _ = LocalTraining(model, settings)(
            parameters,
            Examples(sequences=sequences, labels=labels),
            torch.Generator().manual_seed(seed),
        )
        facts = {"labels": labels, "lengths": lengths, "batch_size": len(lengths)}
        observation = Observation(
            model=model,
            broadcast=Broadcast(round=1, parameters=parameters, config=settings.as_config()),
            update=Update(
                tensors=tensors,
                kind="gradient" if settings.algorithm == "fedsgd" else "delta",
                num_examples=len(sequences),
            ),
            knowledge=Knowledge(**{name: facts[name] for name in granted}),  # type: ignore[arg-type]
        )
        return Batch(observation, sequences, labels)

    return see


@pytest.fixture
def local() -> Local:
    """Return what a FedAvg client sends of ``truth``: its weights less those it was sent."""

    def train(scene: Scene, truth: Sequence[Tokens], **settings: Any) -> dict[str, Tensor]:
        defaults = {"mini_batch_size": 2, "local_epochs": 2, "learning_rate": 1e-3}
        made = TrainingSettings(algorithm="fedavg", **{**defaults, **settings})
        labels = tuple(row % 2 for row in range(len(truth)))
        examples = Examples(sequences=tuple(truth), labels=labels)
        scene.examples = len(truth)
        generator = torch.Generator().manual_seed(0)
        return LocalTraining(scene.model, made)(scene.parameters, examples, generator)[0]

    return train
