"""LTI end to end on a tiny target: above its controls, through defenses, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks import Lti
from fedsim.effects import Clips, Effect, Noises, Signs
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Knowledge, Observation, Update
from fedsim.types import Tokens
from tests.attacks.learned.scene import simulator, trained
from tests.conftest import Adapt

CHEAP = Lti(samples=256, step=1, passes=10, width=64, features=512, learning_rate=3e-3)
LENGTH = 8


def texts(count: int, seed: int = 1) -> list[Tokens]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(8, 2048, (count, LENGTH), generator=generator)
    return [tuple(row) for row in drawn.tolist()]


def attacked(attack: Lti, seen: Observation, held: list[Tokens], *effects: Effect) -> float:
    """Return the share of tokens that are right beyond slot 0, which this target never predicts."""
    knowledge = replace(seen.knowledge, defense=effects)
    rows = torch.tensor(held)[:, None]
    right = 0
    for text, tensors in zip(
        held, simulator(seen, *effects).updates(rows, torch.Generator().manual_seed(5)), strict=True
    ):
        shown = replace(seen, update=replace(seen.update, tensors=tensors), knowledge=knowledge)
        (guess,) = attack.reconstruct(shown, torch.Generator()).sequences
        right += sum(a == b for a, b in zip(guess[1:], text[1:], strict=True))
    return right / (len(held) * (LENGTH - 1))


@pytest.fixture(scope="module")
def seen(adapt: Adapt) -> Observation:
    return trained(adapt("breaching3-tiny", task="causal-lm"), texts(1))[0]


@pytest.mark.slow
def test_it_reads_gradients_and_signs_and_not_those_of_other_weights(
    adapt: Adapt, seen: Observation
) -> None:
    held = texts(20, seed=2)
    assert attacked(CHEAP, seen, held) > 0.9
    assert attacked(CHEAP, seen, held, Signs()) > 0.7
    # controls: the inverter of these weights is shown updates of other weights, and noise
    other = trained(adapt("breaching3-tiny", task="causal-lm", seed=2), texts(1))[0]
    wrong = 0
    for text, tensors in zip(
        held, simulator(other).updates(torch.tensor(held)[:, None], torch.Generator()), strict=True
    ):
        shown = replace(
            seen,
            update=replace(seen.update, tensors=tensors),
            knowledge=replace(seen.knowledge, defense=()),
        )
        (guess,) = CHEAP.reconstruct(shown, torch.Generator()).sequences
        wrong += sum(a == b for a, b in zip(guess, text, strict=True))
    assert wrong <= 2  # of 160 tokens, each one of 2,040 as likely
    hidden = Clips(norm=1e-3), Noises(multiplier=10.0)
    assert attacked(replace(CHEAP, samples=64), seen, held, *hidden) < 0.03


@pytest.mark.slow
def test_of_a_batch_it_finds_a_set(adapt: Adapt) -> None:
    pair = texts(2, seed=3)
    two = trained(adapt("breaching3-tiny", task="causal-lm"), pair)[0]
    guess = Lti(samples=32, passes=1, width=8, features=64).reconstruct(two, torch.Generator())
    assert [len(row) for row in guess.sequences] == [LENGTH, LENGTH]
    assert guess.diagnostics["simulated_clients"] == 32


def test_texts_of_other_lengths_share_an_inverter(adapt: Adapt, tmp_path: Path) -> None:
    model = adapt("breaching3-tiny", task="causal-lm", seed=4)
    attack = Lti(samples=16, passes=1, width=8, features=64, cache=str(tmp_path))
    for length in (6, 8, 7):
        one, _ = trained(model, [texts(1)[0][:length]])
        guess = attack.reconstruct(one, torch.Generator())
        assert [len(row) for row in guess.sequences] == [length]
    assert len(list(tmp_path.iterdir())) == 1


def test_adapters_alone_are_enough_to_run(adapt: Adapt) -> None:
    model = adapt("gpt2-tiny", task="causal-lm", lora_rank=4)  # no vector, no embedding trains
    one, _ = trained(model, [texts(1)[0]])
    attack = Lti(samples=16, passes=1, width=8, features=64, step=1)
    assert len(attack.reconstruct(one, torch.Generator()).sequences[0]) == LENGTH


def test_the_paper_network_runs(seen: Observation) -> None:
    attack = Lti(network="paper", samples=16, passes=1, hashing=0.01)
    guess = attack.reconstruct(seen, torch.Generator())
    assert len(guess.sequences[0]) == LENGTH
    assert guess.diagnostics["defense_simulated"] is False


def test_an_update_of_zeros_gives_no_guess(seen: Observation) -> None:
    zeros = {name: torch.zeros_like(t) for name, t in seen.update.tensors.items()}
    shown = replace(seen, update=replace(seen.update, tensors=zeros))
    attack = Lti(samples=16, passes=1, width=8, features=64)
    assert attack.reconstruct(shown, torch.Generator()).sequences == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prior": "gpt"}, "prior must be aux or unigram, got 'gpt'"),
        ({"network": "mlp"}, "network must be rows or paper, got 'mlp'"),
        ({"samples": 0}, "samples must be > 0, got 0"),
        ({"hashing": 1.5}, r"hashing must be in \(0, 1\], got 1.5"),
        ({"auxiliary": "no/such/file"}, "auxiliary must be a text file, one text a line"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lti(**fields)


@pytest.mark.parametrize(
    ("knowledge", "message"),
    [
        ({"batch_size": 0}, "lti needs the batch size, got 0"),
        ({"lengths": (8, 8)}, "must name 1 lengths, one per example, got 2"),
        ({"lengths": (65,)}, r"must be in \[1, 64\], got 65"),
        ({"batch_size": 600}, "batches of at most 4096 tokens, got 600 examples of up to 8"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(
    seen: Observation, knowledge: dict[str, Any], message: str
) -> None:
    shown = replace(seen, knowledge=Knowledge(**knowledge))
    with pytest.raises(UnsupportedObservation, match=message):
        Lti().reconstruct(shown, torch.Generator())


def test_without_a_length_it_says_what_to_grant(adapt: Adapt) -> None:
    model = adapt("llama-tiny", task="causal-lm")
    one, _ = trained(model, [(9, 10, 11)])
    shown = replace(one, knowledge=Knowledge())
    with pytest.raises(UnsupportedObservation, match=r"lti needs the lengths: grant knowledge"):
        Lti().reconstruct(shown, torch.Generator())


def test_the_length_of_a_target_that_sees_both_ways_is_read(seen: Observation) -> None:
    from attacks.learned import shape_of

    assert shape_of(replace(seen, knowledge=Knowledge())).lengths == (LENGTH,)


def test_a_defense_that_cannot_be_simulated_is_refused(seen: Observation) -> None:
    shown = replace(seen, knowledge=replace(seen.knowledge, defense=(Noises(multiplier=1.0),)))
    with pytest.raises(UnsupportedObservation, match="norm that is not told"):
        Lti().reconstruct(shown, torch.Generator())


def test_the_cache_is_a_directory_of_inverters(seen: Observation, tmp_path: Path) -> None:
    attack = Lti(samples=16, passes=1, width=8, features=64, cache=str(tmp_path / "kept"))
    first = attack.reconstruct(seen, torch.Generator())
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert attack.reconstruct(seen, torch.Generator().manual_seed(9)) == first
    update = Update(tensors=seen.update.tensors, kind="gradient", num_examples=1)
    assert attack.reconstruct(replace(seen, update=update), torch.Generator()) == first
