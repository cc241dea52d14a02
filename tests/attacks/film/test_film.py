"""FILM: costs against autograd, beams against all texts there are, and a batch that is there."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks import Film
from attacks.film.beams import Beams
from attacks.film.language import Language
from attacks.film.mending import Mending
from fedsim.errors import BadInput
from fedsim.messages import Observation
from fedsim.types import Tokens
from tests.attacks.conftest import Look
from tests.conftest import Adapt


@pytest.fixture
def seen(adapt: Adapt, look: Look) -> Observation:
    return look(adapt("gpt2-tiny", task="causal-lm"), (9, 12), granted=()).observation


@torch.no_grad()  # as an attack that is run has none
def test_a_texts_cost_is_its_loss_and_the_norms_gradient(seen: Observation) -> None:
    language = Language(seen)
    texts: list[Tokens] = [(400, 500, 600), (7, 8, 9, 10, 11, 12)]
    cost = language.cost(texts)
    module = seen.model.load(seen.broadcast.parameters)
    for row, text in enumerate(texts):
        module.zero_grad(set_to_none=True)
        with torch.enable_grad():
            ids = torch.tensor([text])
            loss = module(input_ids=ids, labels=ids).loss * (len(text) - 1)
            loss.backward()
        gradient = module.get_parameter("transformer.ln_f.weight").grad
        assert gradient is not None
        assert float(cost.nats[row]) == pytest.approx(loss.item(), rel=1e-4)
        assert torch.allclose(cost.pulls[row], gradient, rtol=1e-3, atol=1e-4)
        assert cost.predicted[row] == len(text) - 1
    module.zero_grad(set_to_none=True)


@torch.no_grad()
def test_the_score_of_the_true_batch_has_neither_distance_nor_gap(adapt: Adapt, look: Look) -> None:
    with torch.enable_grad():
        batch = look(adapt("gpt2-tiny", task="causal-lm"), (9, 12), granted=())
    bag = tuple(sorted({token for text in batch.sequences for token in text}))
    mending = Mending(Language(batch.observation), bag, weight=0.0)
    wrong = [tuple(reversed(text)) for text in batch.sequences]
    best, score = mending.mended(batch.sequences, 0, 0, torch.Generator())
    assert best == list(batch.sequences) and score < 1e-3
    assert mending.mended(wrong, 0, 0, torch.Generator())[1] > 0.1
    # among decoys the two that belong together are chosen
    chosen = mending.chosen([wrong[0], batch.sequences[1], wrong[1], batch.sequences[0]], 2)
    assert set(chosen) == set(batch.sequences)


@pytest.mark.slow
@torch.no_grad()
def test_mending_finds_a_word_that_was_left_out(adapt: Adapt, look: Look) -> None:
    with torch.enable_grad():
        batch = look(adapt("gpt2-tiny", task="causal-lm"), (6,), granted=())
    (text,) = batch.sequences
    bag = tuple(sorted(set(text)))
    mending = Mending(Language(batch.observation), bag, weight=0.0)
    best, score = mending.mended([text[:2] + text[3:]], 4, 28, torch.Generator().manual_seed(0))
    assert best == [text] and score < 1e-3


@torch.no_grad()
def test_a_wide_beam_finds_what_is_likeliest_of_each_length(
    seen: Observation, monkeypatch: pytest.MonkeyPatch
) -> None:
    language = Language(seen)
    bag = (400, 500, 600)  # of which none ends a text, so a mark may be any
    beams = Beams(language, bag, width=64, longest=3, kept=8)
    monkeypatch.setattr(beams, "_enders", lambda: [700])
    monkeypatch.setattr(beams, "_starts", lambda most: bag)
    found = beams.texts(3)
    for first, length in itertools.product(bag, (1, 2)):
        ways = [(first, *rest, 700) for rest in itertools.product(bag, repeat=length - 1)]
        cost = language.cost(ways)
        assert ways[int(cost.nats.argmin())] in found


def test_an_update_without_a_bag_gives_nothing(seen: Observation) -> None:
    zeros = {name: torch.zeros_like(t) for name, t in seen.update.tensors.items()}
    shown = replace(seen, update=replace(seen.update, tensors=zeros))
    guess = Film().reconstruct(shown, torch.Generator())
    assert guess.sequences == () and guess.diagnostics["types"] == 0


@pytest.mark.slow
def test_it_writes_as_many_texts_as_the_client_has_of_words_that_are_there(
    seen: Observation,
) -> None:
    guess = Film(beams=2, starts=3, passes=1, tries=7).reconstruct(seen, torch.Generator())
    assert len(guess.sequences) == 2
    assert guess.diagnostics["distance"] is True and guess.diagnostics["candidates"] >= 2


def test_what_cannot_write_is_refused(adapt: Adapt) -> None:
    with pytest.raises(BadInput, match=r"must be a causal-lm one .* got classification"):
        Film().check(adapt("gpt2-tiny"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beams": 0}, "beams must be >= 1, got 0"),
        ({"longest": 1}, "longest must be >= 2, got 1"),
        ({"alpha": -0.1}, "alpha must be >= 0, got -0.1"),
        ({"tries": float("inf")}, "tries must be >= 0, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Film(**fields)
