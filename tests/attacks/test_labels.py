"""Labels as an attack: a classifier's, next tokens, and what it refuses."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from attacks import LabelCounts
from fedsim.errors import BadInput, UnsupportedObservation
from fedsim.messages import Knowledge, Reconstruction
from tests.attacks.conftest import Batch, Look
from tests.conftest import Adapt


def guess(batch: Batch, **knowledge: object) -> Reconstruction:
    shown = replace(batch.observation, knowledge=Knowledge(**knowledge))  # type: ignore[arg-type]
    return LabelCounts().reconstruct(shown, torch.Generator().manual_seed(1))


def test_a_classifiers_labels_are_counted_though_lengths_differ(adapt: Adapt, look: Look) -> None:
    model = adapt("bert-tiny", num_labels=5)
    batch = look(model, (9, 14, 6, 11), labels=(3, 0, 3, 2), granted=())
    told = guess(batch)
    assert told.sequences == ((0, 2, 3, 3),) and told.diagnostics["counted"] is True
    assert LabelCounts().reads(model) == "labels"


@pytest.mark.slow
def test_next_tokens_are_counted(adapt: Adapt, look: Look) -> None:
    model = adapt("gpt2-tiny", task="causal-lm")
    batch = look(model, (18, 12), granted=())
    true = Counter(token for text in batch.sequences for token in text[1:])
    for knowledge in ({}, {"lengths": (18, 12)}):
        told = guess(batch, **knowledge)
        assert Counter(told.sequences[0]) == true
        assert told.diagnostics["predicted"] == 28 and told.diagnostics["counted"] is True
    assert LabelCounts().reads(model) == "tokens"


def test_zeros_say_nothing(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("gpt2-tiny", task="causal-lm"), (9,), granted=())
    zeros = {name: torch.zeros_like(t) for name, t in batch.observation.update.tensors.items()}
    seen = replace(batch.observation, update=replace(batch.observation.update, tensors=zeros))
    assert LabelCounts().reconstruct(seen, torch.Generator()).sequences == ()


def test_noise_alone_is_not_counted(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("gpt2-tiny", task="causal-lm"), (9,), granted=())
    generator = torch.Generator().manual_seed(5)
    noise = {
        name: torch.randn(t.shape, generator=generator)
        for name, t in batch.observation.update.tensors.items()
    }
    seen = replace(batch.observation, update=replace(batch.observation.update, tensors=noise))
    told = LabelCounts().reconstruct(seen, torch.Generator().manual_seed(1))
    assert told.diagnostics["counted"] is False


def test_masked_tokens_are_refused_before_anything_starts(adapt: Adapt) -> None:
    with pytest.raises(BadInput, match="classification or causal-lm, got masked-lm"):
        LabelCounts().check(adapt("bert-tiny", task="masked-lm"))


def test_a_batch_of_no_size_is_refused(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (9,), granted=())
    with pytest.raises(UnsupportedObservation, match="needs the batch size, got 0"):
        guess(batch, batch_size=0)


def test_steps_of_adam_are_refused(adapt: Adapt, look: Look) -> None:
    batch = look(
        adapt("gpt2-tiny", task="causal-lm"), (9,), granted=(), algorithm="fedavg",
        optimizer="adamw",
    )  # fmt: skip
    with pytest.raises(UnsupportedObservation, match="sum of gradients"):
        guess(batch)
