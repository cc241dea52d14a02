"""What the tests of DAGER's sureness share: what a server sees of a client's batch, and a guess."""

from collections.abc import Sequence
from typing import Any

import torch

from attacks import Dager
from fedsim.local import LocalTraining
from fedsim.messages import Broadcast, Knowledge, Observation, Reconstruction, Update
from fedsim.models import ModelAdapter
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Parameters, Tokens


def seen(
    model: ModelAdapter,
    parameters: Parameters,
    truth: Sequence[Tokens],
    labels: Sequence[int | None],
    scale: float = 1.0,
    stated: int | None = None,
    knowledge: Knowledge | None = None,
    **training: Any,
) -> Observation:
    """Return what the server sees of a client's batch, by the client's own code."""
    settings = TrainingSettings(**training)
    examples = Examples(sequences=tuple(truth), labels=tuple(labels))
    local = LocalTraining(model, settings)
    tensors, _ = local(parameters, examples, torch.Generator().manual_seed(0))
    return Observation(
        model=model,
        broadcast=Broadcast(round=1, parameters=parameters, config=settings.as_config()),
        update=Update(
            tensors={name: scale * tensor for name, tensor in tensors.items()},
            kind="gradient" if settings.algorithm == "fedsgd" else "delta",
            num_examples=len(truth) if stated is None else stated,
        ),
        knowledge=knowledge or Knowledge(),
    )


def read(observation: Observation) -> Reconstruction:
    return Dager().reconstruct(observation, torch.Generator().manual_seed(0))


def sure(guess: Reconstruction) -> bool:
    assert guess.diagnostics["counted"] != guess.diagnostics["best_effort"]
    return bool(guess.diagnostics["counted"])
