"""Weight decay as the config says it and as untouched embeddings show it."""

from dataclasses import replace

import pytest
import torch

from attacks.reads import gradient_of, shown_decay
from attacks.reads.decay import said_decay, undecayed, without_decayed_rows
from tests.attacks.conftest import Look
from tests.conftest import Adapt

WORDS = "transformer.wte.weight"


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_untouched_embeddings_show_what_decay_came_to(
    adapt: Adapt, look: Look, decay: float, optimizer: str
) -> None:
    """In closed form: n steps of decay w at rate r leave (1 - r w)^n of a weight."""
    batch = look(
        adapt("gpt2-tiny"), (8, 8), algorithm="fedavg", mini_batch_size=1, local_epochs=2,
        learning_rate=0.1, weight_decay=decay, optimizer=optimizer,
    )  # fmt: skip
    said = 0.01 if optimizer == "adamw" and not decay else decay  # torch's own
    wanted = (1 - 0.1 * said) ** 4 - 1
    assert shown_decay(batch.observation) == pytest.approx(wanted, rel=1e-3)


def test_a_gradient_has_no_decay(adapt: Adapt, look: Look) -> None:
    observation = look(adapt("gpt2-tiny"), (8,), weight_decay=0.1).observation
    assert shown_decay(observation) == 0.0 and said_decay(observation) == 0.0
    tensor = observation.update.tensors[WORDS]
    assert undecayed(tensor, observation, WORDS) is tensor
    assert without_decayed_rows(tensor, observation, WORDS) is tensor


def test_a_deltas_gradient_is_that_without_decay(adapt: Adapt, look: Look) -> None:
    """Of one step, against the gradient that a FedSGD client sends of the same text."""
    model = adapt("gpt2-tiny")
    wanted = look(model, (8,)).observation.update.tensors[WORDS]
    told = {"algorithm": "fedavg", "learning_rate": 1.0, "weight_decay": 0.1}
    observation = look(model, (8,), **told).observation
    assert said_decay(observation) == 0.1
    undone = gradient_of(observation, WORDS)
    torch.testing.assert_close(undone, wanted, atol=1e-7, rtol=1e-3)
    rows = without_decayed_rows(undone, observation, WORDS).any(dim=1)
    assert torch.equal(rows, wanted.any(dim=1))  # the text's own tokens, and no rounding


def test_an_entry_that_a_defense_left_out_stays_out(adapt: Adapt, look: Look) -> None:
    told = {"algorithm": "fedavg", "learning_rate": 1.0, "weight_decay": 0.1}
    observation = look(adapt("gpt2-tiny"), (8,), **told).observation
    update = observation.update
    kept = torch.zeros_like(update.tensors[WORDS])
    kept[::2] = update.tensors[WORDS][::2]
    masked = replace(update, tensors={**update.tensors, WORDS: kept})
    undone = gradient_of(replace(observation, update=masked), WORDS)
    assert not undone[1::2].any() and undone[::2].any()
