"""DAGER with the model on another device than the messages: the same guess as on the CPU."""

from typing import Any

import pytest
import torch

from attacks import Dager
from fedsim.local import LocalTraining
from fedsim.messages import Observation, Reconstruction
from fedsim.models import ModelSpec, load_adapter
from fedsim.training import Examples, TrainingSettings
from tests.conftest import Observe, Sentences
from tests.standin import another_device

DECAYED = {"algorithm": "fedavg", "weight_decay": 0.5, "learning_rate": 1e-3, "local_epochs": 2}
FIRST_TWO = [(0, "hidden"), (1, "hidden")]
FIRST_ALONE = [(0, "hidden"), (0, "context"), (0, "middle")]


def attack(observation: Observation) -> Reconstruction:
    return Dager().reconstruct(observation, torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "spec", "training", "shown"),
    [
        ("gpt2-tiny", {}, {}, []),
        ("gpt2-tiny", {}, {}, FIRST_TWO),
        ("gpt2-tiny", {}, DECAYED, []),
        ("gpt2-tiny", {"task": "causal-lm"}, {}, []),
        ("gpt2-tiny", {"lora_rank": 96}, {}, []),
        ("llama-tiny", {}, {}, []),
        ("llama-tiny", {}, {}, FIRST_TWO),
        ("llama-tiny", {}, DECAYED, []),
        ("llama-tiny", {"lora_rank": 96}, {}, []),
        ("bert-tiny", {}, {}, []),
        ("bert-tiny", {}, {}, FIRST_ALONE),
    ],
    ids=str,
)
def test_the_guess_does_not_depend_on_the_device(
    observe: Observe,
    sentences: Sentences,
    preset: str,
    spec: dict[str, Any],
    training: dict[str, Any],
    shown: list[tuple[int, Any]],
) -> None:
    model = load_adapter(ModelSpec(name=f"builtin:{preset}", **spec))
    parameters = model.initial_parameters()
    first, second = sentences(model, 2)
    begins = (second[:3],) if model.causal else ()
    texts = (first, second, first, *begins)
    examples = Examples(sequences=texts, labels=tuple(row % 2 for row in range(len(texts))))
    settings = TrainingSettings(**training)
    tensors, _ = LocalTraining(model, settings)(parameters, examples, torch.Generator())
    names = {part.name for layer, place in shown for part in model.projections(layer, place)}
    tensors = {name: tensors[name] for name in names or tensors}
    kind = "delta" if settings.algorithm == "fedavg" else "gradient"
    observation = observe(model, parameters, tensors, examples=len(examples), kind=kind)
    wanted = attack(observation)
    assert {first, second} <= set(wanted.sequences)
    with another_device() as device:
        model.to(device)
        guess = attack(observation)
    assert sorted(guess.sequences) == sorted(wanted.sequences)
    assert guess.diagnostics.get("counted") == wanted.diagnostics.get("counted")
