"""The encoder's search on a tiny random BERT: the oracle is the input itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor
from transformers import BertConfig

from attacks import Dager
from attacks.dager import thresholds
from attacks.dager.encoder.attention import Candidates, make_candidates, token_sets
from attacks.dager.encoder.nonnegative import nonnegative
from attacks.dager.spectrum import find_span
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Reconstruction
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.types import Tokens
from tests.conftest import Adapt, Gradient, Observe, Sentences, initial
from tests.fedsim.models.insides import caught, opened, stirred

OUTPUT = "bert.encoder.layer.0.attention.output.dense.weight"
MIDDLE = "bert.encoder.layer.0.intermediate.dense.weight"


class Scene:
    """A BERT at its initial weights, what a client sends of a batch, and the attack on it."""

    def __init__(self, model: ModelAdapter, gradient: Gradient, observe: Observe) -> None:
        self.model = model
        self.parameters = initial(model)
        self._gradient = gradient
        self._observe = observe

        self.examples = 1

    def update(self, sequences: Sequence[Tokens]) -> dict[str, Tensor]:
        self.examples = len(sequences)
        return self._gradient(self.model, self.parameters, sequences)

    def attack(
        self, update: dict[str, Tensor], seed: int = 0, examples: int | None = None, **settings: Any
    ) -> Reconstruction:
        examples = self.examples if examples is None else examples
        observation = self._observe(self.model, self.parameters, update, examples=examples)
        return Dager(**settings).reconstruct(observation, torch.Generator().manual_seed(seed))

    def text(self, *tokens: int) -> Tokens:
        return (*self.model.prefix, *tokens, *self.model.suffix)


@pytest.fixture
def scene(adapt: Adapt, gradient: Gradient, observe: Observe) -> Scene:
    return Scene(adapt("bert-tiny"), gradient, observe)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("skip", [0, 100, 200, 300])
@pytest.mark.slow
def test_every_sentence_is_found_exactly(
    scene: Scene, sentences: Sentences, count: int, skip: int
) -> None:
    truth = sentences(scene.model, count, skip=skip)
    assert sum(map(len, truth)) < scene.model.width - 20
    guess = scene.attack(scene.update(truth))
    assert sorted(guess.sequences) == sorted(truth)
    assert not guess.diagnostics["best_effort"] and not guess.diagnostics["cut"]
    assert guess.diagnostics["rank_1"] == sum(map(len, truth))  # what ends the search


@pytest.mark.slow
@pytest.mark.parametrize("length", [2, 3, 7, 64, 128])
def test_one_sentence_of_any_length_is_found(scene: Scene, length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    body = torch.randint(300, scene.model.vocabulary, (length - 2,), generator=generator)
    truth = scene.text(*body.tolist())
    assert scene.attack(scene.update([truth])).sequences == (truth,)


@pytest.mark.slow
def test_equal_sentences_are_found_as_often_as_they_were_there(
    scene: Scene, sentences: Sentences
) -> None:
    first, second, third = sentences(scene.model, 3)
    truth = [first, second, first, third, first]  # the labels alternate: (0, 1, 0, 1, 0)
    guess = scene.attack(scene.update(truth), examples=5)
    assert sorted(guess.sequences) == sorted(truth)
    assert guess.diagnostics["counted"] and guess.diagnostics["explained"] > 0.999
    headless = {k: v for k, v in scene.update(truth).items() if "classifier" not in k}
    guess = scene.attack(headless, examples=5)
    assert sorted(guess.sequences) == sorted({first, second, third})
    assert not guess.diagnostics["counted"] and "explained" not in guess.diagnostics
    assert guess.diagnostics["best_effort"]  # three sentences are not five examples


@pytest.mark.slow
@pytest.mark.parametrize("examples", [0, 4, 10**9])
def test_a_wrong_number_of_examples_counts_nothing(
    scene: Scene, sentences: Sentences, examples: int
) -> None:
    truth = sentences(scene.model, 2)
    guess = scene.attack(scene.update([*truth, truth[0]]), examples=examples)
    assert sorted(guess.sequences) == sorted(truth)
    assert not guess.diagnostics["counted"] and guess.diagnostics["best_effort"]


def test_the_same_tokens_in_another_order_are_told_apart(scene: Scene) -> None:
    # a cycle in the graph of tokens and positions: algorithm 1 cannot tell which stands where
    truth = [
        scene.text(400, 500, 600, 700),
        scene.text(500, 400, 700, 600),
        scene.text(600, 500, 400),
    ]
    guess = scene.attack(scene.update(truth))
    assert sorted(guess.sequences) == sorted(truth)
    assert guess.diagnostics["candidates"] > len({(p, t) for s in truth for p, t in enumerate(s)})


def test_sentences_that_share_most_tokens_are_told_apart(scene: Scene) -> None:
    truth = [scene.text(400, 500, 600, 700), scene.text(400, 500, 600, 800), scene.text(400, 500)]
    assert sorted(scene.attack(scene.update(truth)).sequences) == sorted(truth)


def test_equal_sentences_are_found_once(scene: Scene, sentences: Sentences) -> None:
    sentence, other = sentences(scene.model, 2)
    guess = scene.attack(scene.update([sentence, other, sentence]), examples=2)
    assert sorted(guess.sequences) == sorted([sentence, other])
    assert guess.diagnostics["best_effort"]


@pytest.mark.parametrize("gone", [OUTPUT, MIDDLE])
def test_one_of_both_maps_will_do(scene: Scene, sentences: Sentences, gone: str) -> None:
    truth = sentences(scene.model, 2)
    update = {name: tensor for name, tensor in scene.update(truth).items() if name != gone}
    assert sorted(scene.attack(update).sequences) == sorted(truth)


def test_neither_map_is_refused(scene: Scene, sentences: Sentences) -> None:
    update = scene.update(sentences(scene.model, 2))
    update = {name: tensor for name, tensor in update.items() if name not in (OUTPUT, MIDDLE)}
    with pytest.raises(UnsupportedObservation, match=rf"at least one of {OUTPUT}, {MIDDLE}"):
        scene.attack(update)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_an_update_changes_nothing(
    scene: Scene, sentences: Sentences, scale: float
) -> None:
    update = scene.update(sentences(scene.model, 2))
    scaled = {name: scale * tensor for name, tensor in update.items()}
    assert sorted(scene.attack(scaled).sequences) == sorted(scene.attack(update).sequences) != []


def test_zeros_give_nothing(scene: Scene, sentences: Sentences) -> None:
    update = scene.update(sentences(scene.model, 2))
    guess = scene.attack({name: torch.zeros_like(tensor) for name, tensor in update.items()})
    assert guess.sequences == ()


def test_noise_gives_no_sentence(scene: Scene, sentences: Sentences) -> None:
    truth, generator = sentences(scene.model, 2), torch.Generator().manual_seed(0)
    update = {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in scene.update(truth).items()
    }
    guess = scene.attack(update, max_searches=5)
    assert not set(guess.sequences) & set(truth)


@pytest.mark.slow
def test_more_tokens_than_dimensions_is_no_match_and_says_so(
    scene: Scene, sentences: Sentences
) -> None:
    truth = sentences(scene.model, 24)
    assert sum(map(len, truth)) > scene.model.width
    guess = scene.attack(scene.update(truth), max_searches=2)
    assert len(set(guess.sequences) & set(truth)) < len(truth)
    assert guess.diagnostics["blurred_1"] or guess.diagnostics["best_effort"]


def test_a_search_that_ended_early_says_so(scene: Scene, sentences: Sentences) -> None:
    truth = sentences(scene.model, 4)
    guess = scene.attack(scene.update(truth), max_searches=1)
    assert len(guess.sequences) <= 1 and set(guess.sequences) <= set(truth)
    assert guess.diagnostics["best_effort"] and guess.diagnostics["cut"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "least", "examples"), [("EFFORT", 0, 4), ("PATIENCE", -1, 4), ("ENOUGH", -1, 1)]
)
def test_a_search_that_gives_up_says_so(
    scene: Scene,
    sentences: Sentences,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    least: int,
    examples: int,
) -> None:
    truth = sentences(scene.model, 4)
    monkeypatch.setattr(f"attacks.dager.thresholds.{limit}", least)
    guess = scene.attack(scene.update(truth), examples=examples)
    assert len(guess.sequences) < len(truth) and guess.diagnostics["solves"] <= 5
    assert guess.diagnostics["best_effort"] and guess.diagnostics["cut"]


def test_a_search_that_ends_with_the_last_sentence_is_not_cut(
    scene: Scene, sentences: Sentences
) -> None:
    truth = sentences(scene.model, 1)
    guess = scene.attack(scene.update(truth), max_searches=1)
    assert guess.sequences == tuple(truth)
    assert not guess.diagnostics["best_effort"] and not guess.diagnostics["cut"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_guess(scene: Scene, sentences: Sentences) -> None:
    update = scene.update(sentences(scene.model, 4))
    assert scene.attack(update, seed=3) == scene.attack(update, seed=3)


def test_the_masked_inputs_of_a_masked_lm_are_found(
    adapt: Adapt, observe: Observe, sentences: Sentences
) -> None:
    model = adapt("bert-tiny", task="masked-lm")
    parameters = initial(model)
    batch = model.batch(sentences(model, 2), [None, None], torch.Generator().manual_seed(0))
    module = model.load(parameters).eval()
    module.zero_grad(set_to_none=True)
    module(**batch).loss.backward()
    update = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    seen = observe(model, parameters, update, examples=2)
    guess = Dager().reconstruct(seen, torch.Generator())
    rows = zip(batch["input_ids"].tolist(), batch["attention_mask"].sum(dim=1), strict=True)
    read = sorted(tuple(ids[:length]) for ids, length in rows)
    assert sorted(guess.sequences) == read != sorted(sentences(model, 2))
    masks = sum(ids.count(model.tokenizer.mask_token_id) for ids in read)
    assert guess.diagnostics["masked"] == masks > 0
    # what stands at masked places is not read, and any other token may have been drawn
    assert not guess.diagnostics["counted"] and guess.diagnostics["best_effort"]


@pytest.fixture
def pool(scene: Scene, sentences: Sentences) -> tuple[Candidates, list[list[int]], Scene]:
    """Return a pool of the true tokens alone, and each sentence's rows in it."""
    truth, model = sentences(scene.model, 3), scene.model
    update = scene.update(truth)
    sets = [
        torch.tensor(sorted({ids[place] for ids in truth if place < len(ids)}))
        for place in range(max(map(len, truth)))
    ]
    spans = [find_span([update[name].T]) for name in (OUTPUT, MIDDLE)]
    opening = opened(model, scene.parameters)
    made = make_candidates(opening, sets, model.suffix[-1], spans[0], spans[1], torch.Generator())
    pairs = list(zip(made.positions.tolist(), made.tokens.tolist(), strict=True))
    return made, [[pairs.index(pair) for pair in enumerate(ids)] for ids in truth], scene


def test_true_sentences_solve_the_equations_and_foreign_queries_do_not(
    pool: tuple[Candidates, list[list[int]], Scene],
) -> None:
    made, truth, _ = pool
    for rows in truth:
        weights = torch.zeros(len(made.tokens))
        weights[rows] = 1.0
        torch.testing.assert_close(made.occupancy() @ weights, torch.ones(len(made.occupancy())))
        own: list[torch.Tensor] = []
        foreign: list[torch.Tensor] = []
        for query in {row for other in truth for row in other}:
            rest, slopes = made.linearise(query, weights)
            (own if query in rows else foreign).append(rest.norm())
            assert (weights @ slopes).norm() < 1e-3 * slopes.norm()
        # what two sentences share, such as [SEP] at one position, is seen through noise
        assert torch.stack(own).median() < 0.02 and torch.stack(foreign).median() > 0.1


def test_slopes_are_those_that_autograd_finds(
    pool: tuple[Candidates, list[list[int]], Scene],
) -> None:
    made, truth, _ = pool
    weights = torch.rand(len(made.tokens), generator=torch.Generator().manual_seed(0)) + 0.1
    weighted = made.linearise(truth[1][2], weights)[1]
    slopes = torch.autograd.functional.jacobian(
        lambda w: made.linearise(truth[1][2], w)[0], weights
    )
    torch.testing.assert_close(weighted, slopes.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_nonnegative_least_squares_are_scipys(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(301, 47, generator=generator)
    target = torch.randn(47, generator=generator)
    solution, support = nonnegative(columns, target, torch.empty(0, dtype=torch.int64))
    _, misfit = nnls(columns.T.double().numpy(), target.double().numpy())
    assert (solution >= 0).all() and torch.equal(support, solution.nonzero().flatten())
    assert np.isclose((solution @ columns - target).norm().item(), misfit, atol=0.02)


def test_nonnegative_least_squares_of_no_columns_are_zeros() -> None:
    solution, support = nonnegative(
        torch.empty(0, 3), torch.ones(3), torch.empty(0, dtype=torch.long)
    )
    assert len(solution) == len(support) == 0


def test_empty_positions_do_not_end_the_token_sets_at_once() -> None:
    there = {0: 1, 1: 1, 2 + thresholds.LOOK - 1: 1, 60: 1}
    sets = token_sets(lambda place: torch.zeros(there.get(place, 0), dtype=torch.int64), 100)
    assert [len(tokens) for tokens in sets] == [1, 1, *[0] * (thresholds.LOOK - 1), 1]


def test_two_blocks_are_enough(
    tmp_path: Path, sentences: Sentences, gradient: Gradient, observe: Observe
) -> None:
    # a classifier's last block shows [CLS]' queries alone, so block 1's input is not to be had
    config = BertConfig(
        vocab_size=2048, hidden_size=192, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=384, max_position_embeddings=128,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    spec = ModelSpec(name=str(tmp_path), tokenizer="builtin:bert-tiny", weights="random")
    scene = Scene(load_adapter(spec), gradient, observe)
    truth = sentences(scene.model, 3)
    guess = scene.attack(scene.update(truth), examples=3)
    assert sorted(guess.sequences) == sorted(truth) and guess.diagnostics["counted"]


def test_the_inputs_of_the_first_mlp_are_those_of_the_model(
    scene: Scene, sentences: Sentences
) -> None:
    parameters = stirred(scene.model)
    (ids,) = sentences(scene.model, 1)
    with torch.no_grad():
        computed = opened(scene.model, parameters).middles(torch.tensor([ids]), causal=False)
        module: Any = scene.model.module
        with caught(module.get_submodule(MIDDLE.removesuffix(".weight"))) as inputs:
            module(input_ids=torch.tensor([ids]))
    assert torch.allclose(computed, inputs[0], atol=1e-4)
