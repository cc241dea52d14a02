"""Predicted tokens: counts against the texts themselves, by each way that an update tells them."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PhiConfig

from attacks.reads import read_targets, spoken
from attacks.reads.targets import _predicted
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from tests.attacks.conftest import Batch, Look
from tests.conftest import SHARED, Adapt


def read(seen: Observation, predicted: int | None = None) -> tuple[Counter[int], bool, int]:
    told = read_targets(seen, spoken(seen, torch.Generator().manual_seed(1)), predicted)
    return Counter(told.tokens), told.counted, told.way


def true(batch: Batch) -> Counter[int]:
    return Counter(token for text in batch.sequences for token in text[1:])


@pytest.fixture(scope="module")
def with_bias(tmp_path_factory: pytest.TempPathFactory, adapt: Adapt) -> ModelAdapter:
    """Return a random decoder whose head has a bias, with a preset's tokenizer."""
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    adapt("gpt2-tiny").tokenizer.save_pretrained(tokenizer)
    folder = tmp_path_factory.mktemp("phi")
    PhiConfig(
        vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, bos_token_id=0, eos_token_id=0, max_position_embeddings=256,
    ).save_pretrained(folder)  # fmt: skip
    return load_adapter(
        ModelSpec(name=str(folder), tokenizer=str(tokenizer), task="causal-lm", weights="random")
    )


@pytest.mark.slow
def test_the_bias_of_a_head_counts_exactly_up_to_512_tokens(
    with_bias: ModelAdapter, look: Look
) -> None:
    for lengths in ((2,), (17,), (33, 20), (65,) * 8):  # N = 1, 16, 51, 512
        batch = look(with_bias, lengths, granted=())
        assert read(batch.observation) == (true(batch), True, 0)


@pytest.mark.parametrize("factor", [1.0, 40.0])
def test_what_the_bias_shows_as_negative_is_there(
    with_bias: ModelAdapter, look: Look, factor: float
) -> None:
    """Whatever the weights: p is never negative, so precision is 1 by construction."""
    model = with_bias
    batch = look(model, (20, 31), granted=())
    # weights that were never trained and over-confident ones: the head times 40
    head = model.ending()[1]
    parameters = dict(batch.observation.broadcast.parameters)
    parameters[f"{head}.weight"] = factor * parameters[f"{head}.weight"]
    module = model.load(parameters)
    module.zero_grad(set_to_none=True)
    ids = model.batch(batch.sequences, (None, None), torch.Generator())
    with torch.enable_grad():
        module(**ids).loss.backward()
    told = module.get_parameter(f"{head}.bias").grad
    assert told is not None
    slope: Tensor = told.clone()
    module.zero_grad(set_to_none=True)
    negative = set((slope < 0).nonzero().flatten().tolist())
    assert negative and negative <= set(true(batch))
    if factor == 1.0:
        assert negative == set(true(batch))


def test_the_bias_of_the_last_norm_counts_exactly(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("gpt2-tiny", task="causal-lm"), (30, 20, 35), granted=())
    assert read(batch.observation) == (true(batch), True, 1)


@pytest.mark.slow
def test_the_weight_of_an_untied_head_counts_nearly(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("llama-tiny", task="causal-lm"), (30, 20, 35), granted=())
    counts, _, way = read(batch.observation, predicted=true(batch).total())
    shared = (counts & true(batch)).total()
    assert way == 2 and shared >= 0.97 * max(counts.total(), true(batch).total())


@pytest.mark.slow
def test_of_a_trained_tied_model_most_is_found_and_nothing_is_sure(look: Look) -> None:
    path = SHARED / "data" / "models" / "stories260K-hf"
    if not path.exists():
        pytest.skip("needs shared/data beside the repository, which is absent")
    batch = look(load_adapter(ModelSpec(name=str(path), task="causal-lm")), (20, 18), granted=())
    counts, sure, _ = read(batch.observation, predicted=true(batch).total())
    assert not sure and (counts & true(batch)).total() >= 0.4 * true(batch).total()


def test_nothing_is_told_of_a_frozen_head(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("breaching3-tiny", task="causal-lm"), (9,), granted=())
    with pytest.raises(UnsupportedObservation, match="gradient of the head, or of the last norm"):
        read(batch.observation)


@pytest.mark.parametrize("predicted", [1, 3, 7, 124, 1009])
def test_the_number_of_tokens_is_what_makes_counts_whole(predicted: int) -> None:
    generator = torch.Generator().manual_seed(predicted)
    tokens = torch.randint(3000, (predicted,), generator=generator)
    counts = torch.bincount(tokens, minlength=3000).double()
    exact, off = _predicted(counts / predicted)
    assert exact == predicted and off < 1e-9
    blurred = counts / predicted + 0.05 / predicted * torch.randn(
        3000, generator=generator, dtype=torch.float64
    ) * (counts > 0)
    assert _predicted(blurred)[0] == pytest.approx(predicted, rel=0.02)


@pytest.mark.slow
def test_the_model_speaks_by_its_own_chances_and_the_generators(adapt: Adapt, look: Look) -> None:
    seen = look(adapt("gpt2-tiny", task="causal-lm"), (9,), granted=()).observation
    first, again, other = (spoken(seen, torch.Generator().manual_seed(n)) for n in (1, 1, 2))
    assert torch.equal(first.chances, again.chances) and not torch.equal(first.mean, other.mean)
    assert float(first.chances.sum()) == pytest.approx(1.0)
    assert float(first.second.trace()) == pytest.approx(first.mean.numel(), rel=0.01)  # |h|^2 = D


@pytest.mark.slow
def test_counts_at_another_scale_are_not_sure(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("gpt2-tiny", task="causal-lm"), (12,), granted=())
    scaled = {name: 1e-3 * t for name, t in batch.observation.update.tensors.items()}
    seen = replace(batch.observation, update=replace(batch.observation.update, tensors=scaled))
    assert not read(seen)[1]  # counts are of the loss' own scale: another is not sure
