"""What the tests of learned attacks share: a client's observation, made by its own training."""

from collections.abc import Sequence
from typing import Any

import torch

from attacks.learned import Pipeline, Shape, Simulator
from fedsim.effects import Effect
from fedsim.local import LocalTraining
from fedsim.messages import Broadcast, Knowledge, Observation, Update
from fedsim.models import ModelAdapter
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Tokens
from tests.conftest import initial


def trained(
    model: ModelAdapter, texts: Sequence[Tokens], **settings: Any
) -> tuple[Observation, dict[str, torch.Tensor]]:
    """Return what an attack sees of a client that trains on ``texts``, and its raw update."""
    told, parameters = TrainingSettings(**settings), initial(model)
    examples = Examples(sequences=tuple(texts), labels=(0,) * len(texts))
    update, _ = LocalTraining(model, told)(parameters, examples, torch.Generator().manual_seed(1))
    seen = Observation(
        model=model,
        broadcast=Broadcast(round=1, parameters=parameters, config=told.as_config()),
        update=Update(
            tensors=update,
            kind="gradient" if told.algorithm == "fedsgd" else "delta",
            num_examples=len(texts),
        ),
        knowledge=Knowledge(
            lengths=tuple(map(len, texts)), labels=(0,) * len(texts), batch_size=len(texts)
        ),
    )
    return seen, update


def simulator(seen: Observation, *effects: Effect) -> Simulator:
    """Return who simulates clients like the one seen, with defenses of these effects."""
    lengths = seen.knowledge.lengths
    assert lengths
    return Simulator(seen, Shape(lengths), Pipeline(effects))
