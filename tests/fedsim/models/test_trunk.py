"""Trunks against transformers' own forward: what a hook on the real q, k and v sees."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from fedsim.local import LocalTraining
from fedsim.models import ModelAdapter, select
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Parameters
from tests.conftest import Adapt

# by hand, from transformers' module trees
READERS = {
    "gpt2-tiny": ("h.{}.attn.c_attn",),
    "llama-tiny": tuple(f"layers.{{}}.self_attn.{x}_proj" for x in "qkv"),
    "bert-tiny": tuple(f"layer.{{}}.attention.self.{x}" for x in ("query", "key", "value")),
}
PRESETS = sorted(READERS)
CAUSAL = ["gpt2-tiny", "llama-tiny"]
peft_warns = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def moved(model: ModelAdapter) -> Parameters:
    """Return weights at which no norm is 1 and no bias or adapter is 0."""
    generator = torch.Generator().manual_seed(4)
    start = model.initial_parameters()
    return {n: p + 0.05 * torch.randn(p.shape, generator=generator) for n, p in start.items()}


def tokens_of(model: ModelAdapter, rows: int = 3, length: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randint(model.vocabulary, (rows, length), generator=generator)


def hooked(module: nn.Module, names: tuple[str, ...], run: Callable[[], object]) -> list[Tensor]:
    """Return the inputs that the submodules ending in ``names`` read during ``run``."""
    read: list[Tensor] = []
    parts = [part for path, part in module.named_modules() if path.endswith(names)]
    handles = [
        part.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].detach().clone()))
        for part in parts
    ]
    run()
    for handle in handles:
        handle.remove()
    assert len(read) == len(names)
    return read


def oracle(model: ModelAdapter, preset: str, parameters: Parameters, k: int, ids: Tensor) -> Tensor:
    """Return the input of block ``k``'s q, k, v in transformers' own forward: (N, T, D)."""
    module = model.load(parameters).eval()
    names = tuple(name.format(k) for name in READERS[preset])
    with torch.no_grad():
        read = hooked(module, names, lambda: module(input_ids=ids))
    for states in read:
        assert torch.equal(states, read[0])  # q, k and v read the same
    return read[0]


def close(states: Tensor, expected: Tensor) -> None:
    assert states.dtype == torch.float32
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)  # entries are about 1


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_trunk_ends_in_what_the_real_q_k_v_read(adapt: Adapt, preset: str, depth: int) -> None:
    model = adapt(preset)
    parameters, ids = moved(model), tokens_of(model)
    expected = oracle(model, preset, parameters, depth, ids)
    (trunk,) = model.trunks(parameters, depth)
    states, past = trunk.inputs(ids)
    assert states.shape == (3, 11, model.width)
    close(states, expected)
    assert (past is None) == (preset == "bert-tiny")


@pytest.mark.parametrize(
    ("preset", "task"),
    [("gpt2-tiny", "causal-lm"), ("llama-tiny", "causal-lm"), ("bert-tiny", "masked-lm")],
)
def test_trunks_fit_the_other_tasks_and_share_one_workspace(
    adapt: Adapt, preset: str, task: str
) -> None:
    model = adapt(preset, task=task)
    parameters, ids = moved(model), tokens_of(model)
    expected = [oracle(model, preset, parameters, depth, ids) for depth in (2, 0)]
    for trunk, wanted in zip(model.trunks(parameters, 2, 0), expected, strict=True):
        close(trunk.inputs(ids)[0], wanted)


@peft_warns
@pytest.mark.parametrize("preset", PRESETS)
def test_a_trunk_runs_through_lora_adapters(adapt: Adapt, preset: str) -> None:
    model = adapt(preset, lora_rank=3)
    parameters, ids = moved(model), tokens_of(model)
    expected = oracle(model, preset, parameters, 1, ids)
    close(model.trunks(parameters, 1)[0].inputs(ids)[0], expected)


@pytest.mark.parametrize("preset", CAUSAL)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_cached_prefixes_give_what_the_full_forward_gives(
    adapt: Adapt, preset: str, depth: int
) -> None:
    model = adapt(preset)
    parameters, ids = moved(model), tokens_of(model)
    expected = oracle(model, preset, parameters, depth, ids)
    (trunk,) = model.trunks(parameters, depth)
    past, parts = None, []
    for first, last in ((0, 4), (4, 5), (5, 11)):
        part, past = trunk.inputs(ids[:, first:last], first=first, past=past)
        parts.append(part)
    close(torch.cat(parts, dim=1), expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_token_alone_can_stand_anywhere(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    parameters, ids = moved(model), tokens_of(model)
    expected = oracle(model, preset, parameters, 0, ids)
    (trunk,) = model.trunks(parameters, 0)
    for position in (0, 6, 10):
        states, _ = trunk.inputs(ids[:, position, None], first=position)
        close(states[:, 0], expected[:, position])
    elsewhere, _ = trunk.inputs(ids[:, 6, None], first=3)
    assert torch.allclose(elsewhere[:, 0], expected[:, 6], atol=1e-3) == (not model.positional)


@pytest.mark.parametrize("preset", CAUSAL)
def test_selected_prefixes_go_on_as_if_they_had_been_run_alone(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    parameters, ids = moved(model), tokens_of(model)
    rows = torch.tensor([2, 0, 2, 1])
    follow = tokens_of(model, rows=4, length=2) + 1
    whole = torch.cat([ids[rows, :5], follow % model.vocabulary], dim=1)
    expected = oracle(model, preset, parameters, 1, whole)
    (trunk,) = model.trunks(parameters, 1)
    _, past = trunk.inputs(ids[:, :5])
    assert isinstance(past, DynamicCache)
    layers: Any = past.layers
    before = [layer.keys.clone() for layer in layers]
    chosen = select(past, rows)
    states, grown = trunk.inputs(whole[:, 5:], first=5, past=chosen)
    close(states, expected[:, 5:])
    assert isinstance(grown, DynamicCache) and grown.get_seq_length() == 7
    for layer, keys in zip(layers, before, strict=True):  # the old prefixes stay
        assert torch.equal(layer.keys, keys)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_trunk_is_stale_once_other_weights_were_loaded(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    parameters = model.initial_parameters()
    for load in (lambda: model.load(moved(model)), model.initial_parameters):
        (trunk,) = model.trunks(parameters, 1)
        trunk.inputs(tokens_of(model))
        load()
        with pytest.raises(RuntimeError, match=r"other weights were loaded .* this trunk was made"):
            trunk.inputs(tokens_of(model))


def test_a_trunk_outlives_the_loading_of_its_own_weights(adapt: Adapt) -> None:
    model = adapt("gpt2-tiny")
    parameters, ids = moved(model), tokens_of(adapt("gpt2-tiny"))
    (trunk,) = model.trunks(parameters, 1)
    before = trunk.inputs(ids)[0]
    model.load({name: tensor.clone() for name, tensor in parameters.items()})
    assert torch.equal(trunk.inputs(ids)[0], before)


@pytest.mark.parametrize("depth", [-1, 4])
def test_a_trunk_ends_inside_the_model(adapt: Adapt, depth: int) -> None:
    model = adapt("gpt2-tiny")
    with pytest.raises(ValueError, match=rf"depth must be in \[0, 4\), got {depth}"):
        model.trunks(model.initial_parameters(), 0, depth)


def test_a_trunk_has_no_dropout(adapt: Adapt) -> None:
    model = adapt("gpt2-tiny")
    parameters, ids = model.initial_parameters(), tokens_of(adapt("gpt2-tiny"))
    model.module.train()  # as a client leaves it
    (trunk,) = model.trunks(parameters, 2)
    assert torch.equal(trunk.inputs(ids)[0], trunk.inputs(ids)[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_trunk_leaves_the_model_whole(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    parameters, ids = moved(model), tokens_of(model)
    module = model.load(parameters).eval()
    with torch.no_grad():
        before = module(input_ids=ids).logits
        for trunk in model.trunks(parameters, 0, 1):
            trunk.inputs(ids)
        assert torch.equal(model.module(input_ids=ids).logits, before)


def in_span(inputs: Tensor, gradient: Tensor) -> bool:
    """Return whether every column of ``gradient`` (D, K) is a sum of the rows of ``inputs``."""
    coefficients = torch.linalg.lstsq(inputs.T, gradient, driver="gelsd").solution
    rest = gradient - inputs.T @ coefficients
    return bool(rest.norm() < 1e-9 * gradient.norm())


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_projections_are_the_weights_whose_gradient_lies_in_the_span_of_the_inputs(
    adapt: Adapt, preset: str, layer: int
) -> None:
    model = adapt(preset)
    module = model.load(moved(model)).eval().double()
    try:
        ids = tokens_of(model, rows=2, length=9)
        names = tuple(name.format(layer) for name in READERS[preset])
        label = torch.tensor([1, 0])
        read = hooked(module, names, lambda: module(input_ids=ids, labels=label).loss.backward())
        inputs = read[0].flatten(0, 1)  # (18, D)
        spanned = {
            (name, axis)
            for name, p in module.named_parameters()
            for axis in range(p.dim())
            if p.dim() == 2 and p.shape[axis] == model.width
            if in_span(inputs, p.grad if axis == 0 else p.grad.T)
        }
    finally:
        module.zero_grad(set_to_none=True)
        module.float()
    assert spanned == {(weight.name, weight.input_axis) for weight in model.projections(layer)}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_fused_projection_says_how_many_maps_it_holds(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    parameters = model.initial_parameters()
    # q, k and v as wide as transformers' config says; all of them are counted
    heads = getattr(model.config, "num_key_value_heads", model.config.num_attention_heads)
    share = model.width // model.config.num_attention_heads
    widths = sorted([model.width, heads * share, heads * share])
    shares = [
        parameters[weight.name].shape[1 - weight.input_axis] // weight.fused
        for weight in model.projections(0)
        for _ in range(weight.fused)
    ]
    assert sorted(shares) == widths


def test_a_trunk_is_stale_once_a_client_trained_in_its_workspace(adapt: Adapt) -> None:
    model = adapt("gpt2-tiny")
    parameters, ids = model.initial_parameters(), tokens_of(adapt("gpt2-tiny"))
    (trunk,) = model.trunks(parameters, 1)
    settings = TrainingSettings(algorithm="fedavg", mini_batch_size=1)
    examples = Examples(sequences=((5, 6, 7),), labels=(1,))
    LocalTraining(model, settings)(parameters, examples, torch.Generator())
    with pytest.raises(RuntimeError, match="other weights"):
        trunk.inputs(ids)
