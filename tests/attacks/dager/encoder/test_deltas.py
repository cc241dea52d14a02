"""The encoder's search where clients send deltas: the oracle is the input itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.dager.encoder.attention import Candidates
from attacks.dager.encoder.witness import Witness, alternatives
from attacks.dager.span import Gate, Span
from fedsim.models import ModelSpec, load_adapter
from tests.attacks.scene import Local, Scene
from tests.conftest import Gradient, Observe

Shared = Callable[[str], Path]

WIDTH = 24


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"local_epochs": 1, "mini_batch_size": 2},
        {"local_epochs": 3, "mini_batch_size": 1},
        {"local_epochs": 2, "mini_batch_size": 1, "optimizer": "momentum", "weight_decay": 0.1},
    ],
    ids=str,
)
def test_deltas_of_trained_weights_are_read_in_float32(
    shared: Shared, gradient: Gradient, observe: Observe, local: Local, settings: dict[str, Any]
) -> None:
    model = load_adapter(ModelSpec(name=str(shared("data/models/all-MiniLM-L6-v2-fp16"))))
    texts = ["a fine film, all told.", "she never read the other letter"]
    truth = [tuple(ids) for ids in model.tokenizer(texts)["input_ids"]]
    scene = Scene(model, gradient, observe)
    guess = scene.attack(local(scene, truth, learning_rate=1e-2, **settings), kind="delta")
    assert sorted(guess.sequences) == sorted(truth)


# A layer that reads sums of fixed vectors: a sentence's inputs are known, and so are its neighbours


@pytest.fixture
def vectors() -> Tensor:
    return torch.randn(3 * 6, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pool() -> Candidates:
    """Return six positions of three candidates, the first of the first and of the last fixed."""
    tokens = torch.tensor([9, 1, 2] + [3, 4, 5] * 4 + [8, 6, 7])
    none = torch.zeros(0)
    return Candidates(
        tokens=tokens,
        positions=torch.arange(6).repeat_interleave(3),
        queries=none,
        keys=none,
        images=none,
        offsets=none,
        ends=tokens == 8,
    )


def witness(vectors: Tensor, true: Tensor, *, blurred: bool) -> Witness:
    """Return a layer that saw the candidates ``true`` (T,) through some noise."""
    noise = 0.02 * torch.randn(len(true), WIDTH, generator=torch.Generator().manual_seed(1))
    left, _, _ = torch.linalg.svd((vectors[true] + noise).T)
    kept = len(true)
    span = Span(
        basis=left[:, :kept],
        complement=left[:, kept:],
        noise=torch.full((kept,), 1e-4),
        rank=kept,
        blurred=blurred,
    )
    names = torch.tensor([9, 1, 2] + [3, 4, 5] * 4 + [8, 6, 7])

    def inputs(sentences: Tensor) -> Tensor:
        rows = torch.stack([sentences == name for name in names.tolist()], dim=-1)  # (N, T, 18)
        places = torch.arange(sentences.shape[1])[:, None]
        here = torch.arange(6).repeat_interleave(3) == places  # (T, 18)
        return (rows & here).float() @ vectors

    return Witness(inputs, Gate(span=span, outside=0.9, length=1.0, factor=16.0, share=0.4))


TRUE = torch.tensor([0, 4, 6, 11, 13, 15])  # a candidate of each position


def test_a_blurred_layer_bears_out_what_stands_apart(vectors: Tensor, pool: Candidates) -> None:
    settled = witness(vectors, TRUE, blurred=True).settle(TRUE, pool, clear=False)
    assert settled is not None and settled.tolist() == TRUE.tolist()


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_a_wrong_token_gives_way(vectors: Tensor, pool: Candidates, place: int) -> None:
    wrong = TRUE.clone()
    wrong[place] = 3 * place + (TRUE[place] + 1) % 3
    settled = witness(vectors, TRUE, blurred=True).settle(wrong, pool, clear=False)
    assert settled is not None and settled.tolist() == TRUE.tolist()


def test_alternatives_are_looked_at_a_few_at_a_time(
    vectors: Tensor, pool: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, sizes = witness(vectors, TRUE, blurred=True), list[int]()

    def inputs(sentences: Tensor) -> Tensor:
        sizes.append(sentences.numel())
        return layer.inputs(sentences)

    wrong = TRUE.clone()
    wrong[2] = 7
    # three sentences of six tokens at a time; there are eight
    monkeypatch.setattr("attacks.dager.thresholds.WITNESS_PART", 20)
    settled = Witness(inputs, layer.gate).settle(wrong, pool, clear=False)
    assert settled is not None and settled.tolist() == TRUE.tolist()
    # a sentence, and its neighbours at the place that is outside; what gave way, and all its own
    assert sizes == [6, 12, 6, 18, 18, 12]


def test_a_sentence_is_settled_once_and_no_more_than_so_much_is_read(
    vectors: Tensor, pool: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, foreign = witness(vectors, TRUE, blurred=True), torch.tensor([0, 5, 7, 9, 14, 15])
    first = layer.settle(foreign, pool, clear=False)
    read = layer.read
    again = layer.settle(foreign, pool, clear=False)
    assert layer.read == read + 6  # the sentence itself
    assert (first is None) == (again is None)
    monkeypatch.setattr("attacks.dager.thresholds.WITNESSED", read)
    assert layer.tired and layer.settle(TRUE, pool, clear=False) is None


def test_what_the_layer_never_saw_is_not_borne_out(vectors: Tensor, pool: Candidates) -> None:
    foreign = torch.tensor([0, 3, 8, 9, 14, 15])
    assert witness(vectors, TRUE, blurred=True).settle(foreign, pool, clear=False) is None


def test_an_empty_text_has_no_alternatives(vectors: Tensor, pool: Candidates) -> None:
    rows = torch.tensor([0, 4])  # its first token and its last
    layer = witness(vectors, rows, blurred=True)

    def inputs(sentences: Tensor) -> Tensor:
        assert len(sentences), "a model cannot run on no sentences"
        return layer.inputs(sentences)

    settled = Witness(inputs, layer.gate).settle(rows, pool, clear=False)
    assert settled is not None and settled.tolist() == rows.tolist()


def test_where_two_fit_alike_neither_is_borne_out(vectors: Tensor, pool: Candidates) -> None:
    vectors = vectors.clone()
    vectors[5] = vectors[4]  # at position 1 two candidates are read alike
    layer = witness(vectors, TRUE, blurred=True)
    assert layer.settle(TRUE, pool, clear=False) is None
    assert layer.settle(TRUE, pool, clear=True) is TRUE  # what solved the equations alone may stand


def test_known_noise_is_a_threshold_and_mends_nothing(vectors: Tensor, pool: Candidates) -> None:
    sharp = witness(vectors, TRUE, blurred=False)
    assert (
        sharp.settle(TRUE, pool, clear=False) is None
    )  # noise of 0.02 is not the 1e-4 that it is said to be
    exact = Span(
        basis=sharp.gate.span.basis,
        complement=sharp.gate.span.complement,
        noise=torch.full((6,), 1e-2),
        rank=6,
        blurred=False,
    )
    fits = Witness(sharp.inputs, Gate(span=exact, outside=0.9, length=1.0, factor=16.0, share=0.4))
    assert fits.settle(TRUE, pool, clear=False) is TRUE


def test_alternatives_change_one_inner_token_each(pool: Candidates) -> None:
    places, _ = alternatives(TRUE, pool, torch.arange(6) == 2)
    assert places.tolist() == [2, 2]
    places, others = alternatives(TRUE, pool, torch.ones(6, dtype=torch.bool))
    assert places.tolist() == [1, 1, 2, 2, 3, 3, 4, 4]  # two more candidates at each of four
    changed = others != TRUE
    assert (changed.sum(dim=1) == 1).all()
    assert (pool.positions[others] == torch.arange(6)).all()
    assert changed[torch.arange(len(places)), places].all()
