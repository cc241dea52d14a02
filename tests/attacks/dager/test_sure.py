"""What DAGER says that it is sure of: the sequences of the batch, each as often as it was there."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import Dager
from attacks.base import Notes
from attacks.dager.alike import Alike
from attacks.dager.endings import Leaves, bounded
from fedsim.effects import Rescales
from fedsim.messages import Knowledge
from fedsim.models import ModelAdapter
from fedsim.types import Parameters, Tokens
from tests.attacks.dager.seen import read, seen, sure
from tests.attacks.scene import PRESETS
from tests.conftest import Adapt, Sentences, initial

WORDS = {
    "gpt2": "transformer.wte.weight",
    "llama": "model.embed_tokens.weight",
    "bert": "bert.embeddings.word_embeddings.weight",
}


def scaled_head(model: ModelAdapter, scale: float) -> dict[str, Tensor]:
    name = f"{model.ending()[1]}.weight"
    parameters = initial(model)
    return {**parameters, name: scale * parameters[name]}


def verdict_of(model: ModelAdapter, parameters: Parameters, tokens: Tokens) -> tuple[int, float]:
    """Return the label that a model gives a text, and its probability."""
    with torch.no_grad():
        module: Any = model.load(parameters)
        chances = module(input_ids=torch.tensor([tokens])).logits[0].double().softmax(dim=0)
    return int(chances.argmax()), float(chances.max())


@pytest.mark.parametrize("preset", PRESETS)
def test_a_text_with_both_labels_is_not_taken_for_none(
    adapt: Adapt, sentences: Sentences, preset: str
) -> None:
    model = adapt(preset)
    a, b, c = sentences(model, 3)
    truth, labels = [a, a, b, c], [0, 1, 0, 1]  # the head is nearly even: a's two all but cancel
    parameters = scaled_head(model, 1e-2)
    guess = read(seen(model, parameters, truth, labels))
    assert sorted(guess.sequences) == sorted(truth) and sure(guess)
    assert guess.diagnostics["above_floor"] == 4 and guess.diagnostics["alike"] == 0


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
@pytest.mark.slow
def test_an_example_that_left_no_trace_is_no_copy_of_another(
    adapt: Adapt, sentences: Sentences, preset: str, scale: float
) -> None:
    model = adapt(preset)
    parameters = scaled_head(model, scale)
    pool = sentences(model, 40)
    given = {tokens: verdict_of(model, parameters, tokens) for tokens in pool}
    certain = max(pool, key=lambda tokens: given[tokens][1])
    a, b = [tokens for tokens in pool if tokens != certain][:2]
    truth = [a, b, b, certain]
    labels = [1 - given[a][0], 1 - given[b][0], 1 - given[b][0], given[certain][0]]
    guess = read(seen(model, parameters, truth, labels))
    if scale == 1000.0 or given[certain][1] > 1 - 1e-12:
        assert given[certain][1] > 1 - 1e-12  # its gradient is below float32's rounding
        assert not sure(guess) and sorted(guess.sequences) == sorted([a, b, b])
        assert guess.diagnostics["above_floor"] == 3
    else:
        assert not sure(guess) or sorted(guess.sequences) == sorted(truth)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.slow
def test_as_many_leaves_as_examples_are_one_each_however_sure_the_head_is(
    adapt: Adapt, sentences: Sentences, preset: str
) -> None:
    model = adapt(preset)
    truth = sentences(model, 4)
    found = 0
    for scale in (3.0, 10.0, 30.0):
        parameters = scaled_head(model, scale)
        labels = [verdict_of(model, parameters, tokens)[0] for tokens in truth]
        guess = read(seen(model, parameters, truth, labels))
        whole = sorted(guess.sequences) == sorted(truth)
        assert not sure(guess) or whole
        found += sure(guess)
    assert found


@pytest.mark.parametrize(("task", "shortest"), [("classification", 1), ("causal-lm", 1)])
def test_a_text_without_a_loss_is_no_copy_of_another(
    adapt: Adapt, sentences: Sentences, task: str, shortest: int
) -> None:
    model = adapt("gpt2-tiny", task=task)
    (a,) = sentences(model, 1)
    truth = [a, (300,) * shortest]
    guess = read(seen(model, initial(model), truth, [0, 1]))
    if task == "classification":
        assert sorted(guess.sequences) == sorted(truth) and sure(guess)
    else:  # of one token alone a next-token loss has nothing to say: the gradient is a's
        assert set(guess.sequences) == {a} and not sure(guess)
        assert guess.diagnostics["above_floor"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("copies", [1, 2])
def test_tokens_that_are_embedded_alike_are_not_told_apart(
    adapt: Adapt, family: str, copies: int
) -> None:
    model = adapt(f"{family}-tiny")
    words = initial(model)[WORDS[family]].clone()
    words[500] = words[400]
    parameters = {**initial(model), WORDS[family]: words}
    text = (*model.prefix, 300, 400, 600, *model.suffix)
    guess = read(seen(model, parameters, [text] * copies, [0] * copies))
    assert not sure(guess) and guess.diagnostics["alike"] >= 1
    assert len(guess.sequences) <= copies
    other = (*model.prefix, 300, 700, 600, *model.suffix)  # holds neither
    guess = read(seen(model, parameters, [other] * copies, [0] * copies))
    assert guess.sequences == (other,) * copies and sure(guess)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", [1e-3, 0.3])
@pytest.mark.slow
def test_an_update_of_another_scale_is_counted_where_one_reading_fits(
    adapt: Adapt, sentences: Sentences, preset: str, scale: float
) -> None:
    model = adapt(preset)
    a, b = sentences(model, 2)
    parameters = initial(model)
    guess = read(seen(model, parameters, [a, a, b], [0, 0, 1], scale=scale))
    assert sorted(guess.sequences) == sorted([a, a, b]) and sure(guess)
    twice = [a, a, b, b]  # or a and b, and two that left no trace: a scale would hide it
    guess = read(seen(model, parameters, twice, [0, 0, 1, 1], scale=scale))
    assert not sure(guess)
    told = Knowledge(defense=(Rescales(divisor=1 / scale),))
    guess = read(seen(model, parameters, twice, [0, 0, 1, 1], scale=scale, knowledge=told))
    assert sorted(guess.sequences) == sorted(twice) and sure(guess)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [*PRESETS, "bert-tiny"])
@pytest.mark.parametrize("stated", [1, 3, 5])
def test_what_does_not_add_up_to_the_examples_stated_is_not_sure(
    adapt: Adapt, sentences: Sentences, preset: str, stated: int
) -> None:
    model = adapt(preset)
    truth = sentences(model, 2)
    guess = read(seen(model, initial(model), truth, [0, 1], stated=stated))
    assert not sure(guess) and sorted(guess.sequences) == sorted(truth)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_guesses_of_an_update_that_hides_them_are_no_more_than_the_examples_stated(
    adapt: Adapt, sentences: Sentences, preset: str
) -> None:
    model = adapt(preset)
    truth = sentences(model, 4)
    labels = [0, 1, 0, 1]
    parameters = initial(model)
    observation = seen(
        model, parameters, truth, labels,
        algorithm="fedavg", local_epochs=8, learning_rate=3e-2, mini_batch_size=1,
    )  # fmt: skip
    guess = read(observation)
    assert not sure(guess) and guess.diagnostics["unread"]
    assert len(guess.sequences) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stated", [1, 2])
def test_texts_that_are_clearly_there_outlive_a_number_that_is_too_small(
    adapt: Adapt, sentences: Sentences, preset: str, stated: int
) -> None:
    model = adapt(preset)
    truth = sentences(model, 4)
    observation = seen(
        model, initial(model), truth, [0, 1, 0, 1], stated=stated,
        algorithm="fedavg", local_epochs=2, learning_rate=1e-3, mini_batch_size=2,
    )  # fmt: skip
    guess = read(observation)
    assert sorted(guess.sequences) == sorted(truth) and not sure(guess)
    assert guess.diagnostics["dropped"] == 0 and guess.diagnostics["above_floor"] == stated


def leaves(sequences: Sequence[Tokens], clear: Sequence[Tokens]) -> Leaves:
    every = {tokens[:stop] for tokens in clear for stop in range(1, len(tokens) + 1)}
    return Leaves(
        sequences=tuple(sequences),
        sound=False,
        alike=Alike(frozenset(), copies=False),
        clear=frozenset(every),
    )


def test_what_is_dropped_is_said() -> None:
    texts = [(1, 2, 3), (4, 5, 6), (4, 5, 7), (8, 9), (10, 11)]
    found = leaves(texts, [*texts[:4], (10,)])
    notes: Notes = {"rank_1": 20, "dropped": 0, "cut": False}
    # one that differs from another in its end adds no input but that; the last is clear in part
    assert bounded(tuple(texts), found, 1, notes) == (texts[0], texts[1], texts[3])
    assert notes["dropped"] == 2 and notes["cut"]
    notes = {"rank_1": 6, "dropped": 0, "cut": False}  # the span has no room for more inputs
    assert bounded(tuple(texts), found, 1, notes) == (texts[0], texts[1])
    assert notes["dropped"] == 3
    assert bounded(tuple(texts), found, 0, notes) == tuple(texts)  # it states nothing


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("twins", [10, 100])
def test_tokens_with_many_twins_lose_no_text(
    adapt: Adapt, sentences: Sentences, preset: str, twins: int
) -> None:
    model = adapt(preset)
    name = WORDS[preset.removesuffix("-tiny")]
    words = initial(model)[name].clone()
    words[1000 : 1000 + twins] = words[400]
    parameters = {**initial(model), name: words}
    truth = [(*model.prefix, 300, 400, 600, 310, 320), (*model.prefix, 210, 220, 230, 240)]
    guess = read(seen(model, parameters, truth, [0, 1]))
    assert not sure(guess) and guess.diagnostics["alike"] == 1 and not guess.diagnostics["cut"]
    assert len(guess.sequences) == 2 and truth[1] in guess.sequences
    other = next(tokens for tokens in guess.sequences if tokens != truth[1])
    apart = [(mine, true) for mine, true in zip(other, truth[0], strict=True) if mine != true]
    assert all(true == 400 and 1000 <= mine < 1000 + twins for mine, true in apart)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_search_that_ends_early_keeps_what_was_alive(
    adapt: Adapt, sentences: Sentences, preset: str
) -> None:
    model = adapt(preset)
    truth = sentences(model, 2)
    observation = seen(model, initial(model), truth, [0, 1])
    guess = Dager(max_pairs=200).reconstruct(observation, torch.Generator().manual_seed(0))
    assert guess.diagnostics["cut"] and not sure(guess)
    assert len(guess.sequences) == 2
    assert {tokens[: len(g)] for tokens in truth for g in guess.sequences} >= set(guess.sequences)
