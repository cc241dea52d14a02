"""A length is said to be exact only where nothing may have filled or emptied a row."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks.matching.frame import Frame, find_frame
from attacks.reads.lengths import read_lengths
from defenses import DPSGD, Defense, Gaussian, Quantize, RandomMask, Sign, TopK
from fedsim.messages import Knowledge
from fedsim.types import Parameters
from tests.attacks.conftest import Batch, Look
from tests.conftest import Adapt


def frame(batch: Batch, tensors: Parameters, **knowledge: Any) -> Frame:
    observation = batch.observation
    changed = replace(
        observation,
        update=replace(observation.update, tensors=tensors),
        knowledge=Knowledge(labels=(0,), **knowledge),
    )
    return find_frame(changed, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny"])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_an_undefended_length_is_exact(
    adapt: Adapt, look: Look, preset: str, dropout: bool, scale: float
) -> None:
    batch = look(adapt(preset), (8,), granted=(), dropout=dropout)
    tensors = {name: scale * tensor for name, tensor in batch.observation.update.tensors.items()}
    read = frame(batch, tensors)
    assert read.mask.shape == (1, 8) and read.exact_lengths


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny"])
@pytest.mark.parametrize(
    "defense",
    [
        TopK(fraction=0.3), TopK(fraction=0.01), TopK(fraction=0.001),
        RandomMask(fraction=0.9), RandomMask(fraction=0.01),
        Quantize(dtype="int8"), Quantize(dtype="int4"),
    ],
)  # fmt: skip
def test_what_may_have_emptied_rows_leaves_the_length_open(
    adapt: Adapt, look: Look, preset: str, defense: Any
) -> None:
    batch = look(adapt(preset), (8,), granted=())
    tensors = batch.observation.update.tensors
    read = frame(batch, defense.protect(tensors, torch.Generator().manual_seed(0)))
    assert not read.exact_lengths and not read.notes["lengths_exact"]
    assert read.mask.shape[1] <= 8
    if preset == "bert-tiny":  # no [SEP] is set where it may not be
        assert read.free[:, 1:].all()


@pytest.mark.parametrize("deviation", [1e-6, 1e-4, 0.01])
def test_noise_leaves_the_length_open(adapt: Adapt, look: Look, deviation: float) -> None:
    batch = look(adapt("bert-tiny"), (8,), granted=())
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: tensor + deviation * torch.randn(tensor.shape, generator=generator)
        for name, tensor in batch.observation.update.tensors.items()
    }
    read = frame(batch, noisy)
    assert not read.exact_lengths and read.mask.shape[1] <= 8


@pytest.mark.parametrize("defense", [TopK(), RandomMask(), Quantize(), Gaussian(), DPSGD(), Sign()])
def test_a_defense_that_is_known_to_hide_rows_is_believed(
    adapt: Adapt, look: Look, defense: Defense
) -> None:
    batch = look(adapt("bert-tiny"), (8,), granted=())
    tensors = batch.observation.update.tensors
    assert not frame(batch, tensors, defense=defense.effects()).exact_lengths
    assert frame(batch, tensors, defense=()).exact_lengths


def test_the_highest_of_many_rows_of_noise_is_no_token(adapt: Adapt, look: Look) -> None:
    """256 rows of 192 normal numbers: the level is above the largest norm of theirs."""
    batch = look(adapt("bert-tiny"), (8,), granted=())
    name = "bert.embeddings.position_embeddings.weight"
    for seed in range(20):
        rows = torch.randn(256, 192, generator=torch.Generator().manual_seed(seed))
        rows[:8] *= 2.0
        update = replace(
            batch.observation.update, tensors={**batch.observation.update.tensors, name: rows}
        )
        assert read_lengths(replace(batch.observation, update=update)) == (8, False)
