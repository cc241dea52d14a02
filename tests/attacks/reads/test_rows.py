"""Rows of the word embeddings that moved: against the texts themselves, and through noise."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from attacks.reads import moved_rows
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation
from fedsim.types import Tokens
from tests.attacks.conftest import Look
from tests.conftest import Adapt


def types(texts: Sequence[Tokens]) -> tuple[int, ...]:
    return tuple(sorted({token for text in texts for token in text}))


def noised(seen: Observation, deviation: float) -> Observation:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: tensor + deviation * torch.randn(tensor.shape, generator=generator)
        for name, tensor in seen.update.tensors.items()
    }
    return replace(seen, update=replace(seen.update, tensors=tensors))


def test_untied_rows_are_the_types_at_any_scale(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (9, 14, 6))
    seen = batch.observation
    assert moved_rows(seen).tokens == types(batch.sequences)  # the texts themselves
    tensors = {name: 1e-4 * tensor for name, tensor in seen.update.tensors.items()}
    scaled = replace(seen, update=replace(seen.update, tensors=tensors))
    assert moved_rows(scaled).tokens == types(batch.sequences)


def test_a_next_token_loss_moves_no_row_for_what_is_only_predicted(
    adapt: Adapt, look: Look
) -> None:
    batch = look(adapt("llama-tiny", task="causal-lm"), (9, 14), granted=())
    moved = moved_rows(batch.observation)
    assert not moved.tied
    assert moved.tokens == types([text[:-1] for text in batch.sequences])


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_local_steps_and_decay_add_no_type(adapt: Adapt, look: Look, optimizer: str) -> None:
    training = {"algorithm": "fedavg", "optimizer": optimizer, "weight_decay": 0.01,
                "mini_batch_size": 2, "learning_rate": 1e-4}  # fmt: skip
    batch = look(adapt("bert-tiny"), (9, 14, 6, 8), granted=(), dropout=True, **training)
    assert moved_rows(batch.observation).tokens == types(batch.sequences)


def test_noise_hides_types_and_names_none_that_is_not_there(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (9, 14))
    seen, true = batch.observation, set(types(batch.sequences))
    found = [set(moved_rows(noised(seen, size)).tokens) for size in (1e-5, 1e-3, 1.0)]
    assert found[0] == true and not found[2]
    assert found[1] < true  # some stand out, others no longer


def test_a_tied_head_moves_every_row_and_those_that_were_read_stand_out(
    adapt: Adapt, look: Look
) -> None:
    batch = look(adapt("gpt2-tiny", task="causal-lm"), (20, 30, 25), granted=())
    seen = batch.observation
    assert all(seen.update.tensors["transformer.wte.weight"].any(dim=1))
    moved = moved_rows(seen)
    assert moved.tied and set(types([text[:-1] for text in batch.sequences])) <= set(moved.tokens)
    assert set(moved.tokens) <= set(types(batch.sequences))


def test_noise_alone_names_nobody_of_a_tied_head(adapt: Adapt, look: Look) -> None:
    seen = look(adapt("gpt2-tiny", task="causal-lm"), (9,), granted=()).observation
    assert moved_rows(noised(seen, 1e3)).tokens == ()
    zeros = {name: torch.zeros_like(t) for name, t in seen.update.tensors.items()}
    assert moved_rows(replace(seen, update=replace(seen.update, tensors=zeros))).tokens == ()


def test_frozen_embeddings_are_refused(adapt: Adapt, look: Look) -> None:
    frozen = adapt("bert-tiny", freeze=("embeddings",))
    with pytest.raises(UnsupportedObservation, match="word embeddings must train"):
        moved_rows(look(frozen, (9,)).observation)
