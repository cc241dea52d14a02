"""DAGER on models of types that no family file has."""

from pathlib import Path

import pytest
import torch

from attacks import Dager
from tests.attacks.scene import exact
from tests.conftest import Gradient, Observe, initial
from tests.fedsim.models.graph.tiny import tiny

TEXTS = ((1, 700, 801, 902), (1, 1500, 333, 1201, 640))  # each begins with <s>
WHOLE = ((5, 700, 801, 902, 6), (5, 1500, 333, 1201, 640, 6))  # [CLS] ... [SEP]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3", "phi", "opt", "mixtral"])
def test_a_decoder_is_read_exactly(
    kind: str, tmp_path: Path, gradient: Gradient, observe: Observe
) -> None:
    model = tiny(tmp_path, kind)
    parameters = initial(model)
    update = gradient(model, parameters, TEXTS, [0, 1])
    seen = observe(model, parameters, update, examples=2)
    read = Dager().reconstruct(seen, torch.Generator().manual_seed(0))
    assert exact(read, TEXTS) == len(read.sequences) == 2
    assert read.diagnostics["counted"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mistral", "gemma2", "falcon", "bloom"])
def test_other_decoders_are_read_exactly(
    kind: str, tmp_path: Path, gradient: Gradient, observe: Observe
) -> None:
    test_a_decoder_is_read_exactly(kind, tmp_path, gradient, observe)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "electra"])
@pytest.mark.parametrize("size", [1, 2])
def test_an_encoder_is_read_exactly(
    kind: str, size: int, tmp_path: Path, gradient: Gradient, observe: Observe
) -> None:
    model = tiny(tmp_path, kind)
    parameters = initial(model)
    update = gradient(model, parameters, WHOLE[:size], [0, 1][:size])
    seen = observe(model, parameters, update, examples=size)
    read = Dager().reconstruct(seen, torch.Generator().manual_seed(0))
    assert exact(read, WHOLE[:size]) == len(read.sequences) == size


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["modernbert", "deberta-v2"])
@pytest.mark.parametrize("size", [1, 2])
def test_of_relative_positions_the_order_is_read_off_attention(
    kind: str, size: int, tmp_path: Path, gradient: Gradient, observe: Observe
) -> None:
    model = tiny(tmp_path, kind)
    parameters = initial(model)
    update = gradient(model, parameters, WHOLE[:size], [0, 1][:size])
    seen = observe(model, parameters, update, examples=size)
    read = Dager().reconstruct(seen, torch.Generator().manual_seed(0))
    assert exact(read, WHOLE[:size]) == len(read.sequences) == size
    assert read.diagnostics["above_floor"] == size


@pytest.mark.slow
def test_an_order_that_noise_hides_leaves_the_tokens_and_that_is_said(
    tmp_path: Path, gradient: Gradient, observe: Observe
) -> None:
    model = tiny(tmp_path, "modernbert")
    parameters = initial(model)
    update = gradient(model, parameters, WHOLE[1:], [0])
    noise, wrong = torch.Generator().manual_seed(0), 0
    for _ in range(6):
        noisy = {
            name: tensor + 3e-4 * tensor.std() * torch.randn(tensor.shape, generator=noise)
            for name, tensor in update.items()
        }
        seen = observe(model, parameters, noisy, examples=1)
        read = Dager().reconstruct(seen, torch.Generator().manual_seed(0))
        assert read.diagnostics["best_effort"] and not read.diagnostics["counted"]
        assert read.diagnostics["alike"] == 1
        assert sorted(read.sequences[0]) == sorted(WHOLE[1])
        wrong += read.sequences != WHOLE[1:]
    assert wrong  # so it must not be sure


def test_a_token_that_is_embedded_as_another_is_said(
    tmp_path: Path, gradient: Gradient, observe: Observe
) -> None:
    model = tiny(tmp_path, "modernbert")
    weights = dict(initial(model))
    (name,) = [name for name in weights if name.endswith("tok_embeddings.weight")]
    weights[name] = weights[name].clone()
    weights[name][44] = weights[name][700]
    update = gradient(model, weights, WHOLE[:1], [0])
    seen = observe(model, weights, update, examples=1)
    read = Dager().reconstruct(seen, torch.Generator().manual_seed(0))
    assert read.diagnostics["alike"] and read.diagnostics["best_effort"]


SIBLINGS = {
    "another order": ((5, 700, 801, 902, 6), (5, 700, 902, 801, 6)),
    "the same tokens": ((5, 700, 801, 6), (5, 801, 700, 6)),
    "it begins the other": ((5, 700, 801, 902, 6), (5, 700, 801, 6)),
    "twice": ((5, 700, 801, 902, 6),) * 2,
    "a token again": ((5, 700, 801, 700, 6),),
    "one token": ((5, 700, 6),),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["modernbert", "albert"])
@pytest.mark.parametrize("trained", [False, True])
def test_texts_that_are_alike_are_never_sure_and_wrong(
    kind: str, trained: bool, tmp_path: Path, gradient: Gradient, observe: Observe
) -> None:
    """A head hardly tells one order of a text from another: what it fits is no proof of both."""
    model = tiny(tmp_path, kind)
    parameters, sure = initial(model), 0
    for texts in SIBLINGS.values():
        labels, weights = [1, 0][: len(texts)], dict(parameters)
        if trained:
            told = gradient(model, parameters, texts, labels)
            weights |= {name: parameters[name] - 0.1 * told[name] for name in told}
        update = gradient(model, weights, texts, labels)
        seen = observe(model, weights, update, examples=len(texts))
        read = Dager().reconstruct(seen, torch.Generator().manual_seed(0))
        if read.diagnostics["counted"] or not read.diagnostics["best_effort"]:
            assert sorted(read.sequences) == sorted(texts)
            sure += 1
    assert bool(sure) == (kind == "modernbert")  # of a block that runs again, never
