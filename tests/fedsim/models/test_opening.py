"""Block 0 and the last MLP in the open, against the modules themselves and autograd."""

from typing import Any

import pytest
import torch
from torch import nn

from fedsim.models import Norm, Place, family, family_names
from fedsim.models.opening import affine
from tests.conftest import Adapt
from tests.fedsim.models.insides import caught, opened, stirred

PRESETS = [f"{name}-tiny" for name in family_names() if "classification" in family(name).classes]
PLACES: list[Place] = ["hidden", "context", "middle", "inner"]


@pytest.mark.parametrize("preset", PRESETS)
def test_block_0_in_the_open_is_what_the_model_computes(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    parameters = stirred(model)
    opening = opened(model, parameters)
    tokens = torch.randint(2048, (11,), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(11)
    reader = model.projections(0, "middle")[0].name.removesuffix(".weight")
    (trunk,) = model.trunks(parameters, 0)
    with caught(model.module.get_submodule(reader)) as read, torch.no_grad():
        model.module(input_ids=tokens[None], attention_mask=torch.ones(1, 11, dtype=torch.int64))
        inputs = opening.inputs(tokens, positions)
        assert torch.allclose(inputs, trunk.inputs(tokens[None])[0][0], atol=1e-5)
        queries, keys, values = opening.heads(inputs, positions)
        rows = []
        for place in positions.tolist():  # naive: one query and one head at a time
            there = range(place + 1) if model.causal else range(11)
            heads = []
            for head in range(queries.shape[1]):
                group = head * keys.shape[1] // queries.shape[1]
                scores = torch.stack([queries[place, head] @ keys[j, group] for j in there])
                weights = (opening.scale * scores).softmax(0)
                heads.append(sum(w * values[j, group] for w, j in zip(weights, there, strict=True)))
            rows.append(torch.cat(heads))
        context = torch.stack(rows) @ opening.output + opening.output_bias
        middle = opening.middle(opening.residual(tokens, positions) + context)
    assert torch.allclose(middle, read[0][0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("place", PLACES)
def test_a_projection_reads_what_its_place_says(adapt: Adapt, preset: str, place: Place) -> None:
    # dL/dW = X^T dL/dY: its rows along the input axis lie in the span of what the module was given
    model = adapt(preset)
    parameters = stirred(model)
    module: Any = model.load(parameters)
    for weight in model.projections(1, place):
        with caught(module.get_submodule(weight.name.removesuffix(".weight"))) as inputs:
            module.zero_grad(set_to_none=True)
            module(
                input_ids=torch.tensor([[9, 10, 11, 12]]), labels=torch.tensor([0])
            ).loss.backward()
        gradient = dict(module.named_parameters())[weight.name].grad
        gradient = gradient if weight.input_axis == 0 else gradient.T  # (D, K)
        basis = torch.linalg.qr(inputs[0][0].T.double()).Q  # (D, 4)
        rest = gradient.double() - basis @ (basis.T @ gradient.double())
        assert rest.norm() < 1e-4 * gradient.norm()
        assert gradient.shape[1] % weight.fused == 0
    module.zero_grad(set_to_none=True)


@pytest.mark.parametrize("centred", [True, False])
def test_a_norms_pull_is_autograds(centred: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(2, 24, generator=generator).double()
    norm = Norm(weight=weight, bias=bias * centred, eps=1e-5, centred=centred)
    states = torch.randn(5, 24, generator=generator).double().requires_grad_()
    back = torch.randn(5, 3, 24, generator=generator).double()
    for k in range(3):
        (wanted,) = torch.autograd.grad((norm(states) * back[:, k]).sum(), states)
        assert torch.allclose(norm.pull(states.detach(), back)[:, k], wanted, atol=1e-12)
    if centred:
        plain = nn.functional.layer_norm(states, (24,), weight, bias, 1e-5)
        assert torch.allclose(norm(states), plain, atol=1e-12)


def test_the_matrix_of_an_affine_module() -> None:
    module = nn.Linear(7, 4)
    matrix, bias = affine(module, 7, module.weight)
    assert torch.allclose(matrix, module.weight.T, atol=1e-6)
    assert torch.allclose(bias, module.bias, atol=1e-6)


@pytest.mark.parametrize("task", ["classification", "causal-lm"])
@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny"])
def test_the_last_mlp_in_the_open_gives_the_models_logits(
    adapt: Adapt, preset: str, task: str
) -> None:
    model = adapt(preset, task=task)
    parameters = stirred(model)
    sequences = [(9, 10, 11), (400, 401)]
    closing = model.closing(parameters, sequences)
    assert closing is not None
    module: Any = model.load(parameters)
    with torch.no_grad():
        wanted = [module(input_ids=torch.tensor([ids])).logits[0] for ids in sequences]
    logits = closing.norm(closing.states) @ closing.head.T
    got = [logits[:3], logits[3:]] if task == "causal-lm" else [logits[2], logits[4]]
    for image, other in zip(got, wanted, strict=True):
        assert torch.allclose(image, other, atol=1e-4)
    assert closing.activations.shape[0] == 5


def test_an_encoder_has_more_after_its_last_norm_than_a_head(adapt: Adapt) -> None:
    model = adapt("bert-tiny")
    assert model.closing(model.initial_parameters(), [(9, 10)]) is None


@pytest.mark.parametrize("preset", PRESETS)
def test_block_0_and_the_end_are_stale_once_other_weights_were_loaded(
    adapt: Adapt, preset: str
) -> None:
    model = adapt(preset)
    parameters, ids, first = stirred(model), torch.tensor([9, 10]), torch.tensor([0, 1])
    opening = opened(model, parameters)
    closing = model.closing(parameters, [(9, 10)])
    held = [opening.inputs(ids, first)]
    held += [] if closing is None else [closing.norm(closing.states)]
    model.load(model.initial_parameters())
    for read in (
        lambda: opening.words,
        lambda: opening.inputs(ids, first),
        lambda: opening.heads(held[0], first),
    ):
        with pytest.raises(RuntimeError, match=r"other weights were loaded .* this opening was"):
            read()
    if closing is not None:
        with pytest.raises(RuntimeError, match=r"other weights were loaded .* this closing was"):
            closing.norm  # noqa: B018  # reading it is the test
    again = opened(model, parameters)
    assert torch.equal(again.inputs(ids, first), held[0])
    assert (closing is None) == (model.last_norm is None)
