"""The tokens of every position at the price of one, against a naive float64 loop."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.dager import thresholds
from attacks.dager.span import open_gate
from attacks.dager.spectrum import find_span
from attacks.dager.tokens import TokenSets
from fedsim.models import ModelAdapter, Opening
from tests.conftest import Adapt, Gradient, Sentences, initial
from tests.fedsim.models.insides import opened, stirred

PRESETS = ["gpt2-tiny", "llama-tiny", "bert-tiny"]


def prepared(
    model: ModelAdapter, parameters: dict[str, Tensor], update: dict[str, Tensor]
) -> tuple[Opening, TokenSets]:
    opening = opened(model, parameters)
    blocks = []
    for weight in model.projections(0):
        gradient = update[weight.name] if weight.input_axis == 0 else update[weight.name].T
        blocks += list(gradient.chunk(weight.fused, dim=1))
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(model.vocabulary, (512,), generator=generator)
    gate = open_gate(find_span(blocks), opening.inputs(random, 0 * random), 100.0, 0.4)
    return opening, TokenSets(opening, gate, generator)


def naive(opening: Opening, token: int, position: int, complement: Tensor) -> float:
    """Return the distance of one token at one position, straight from its definition, float64."""
    norm = opening.norm
    vector = opening.words[token].double()
    if len(opening.places) > 1:
        vector = vector + opening.places[position].double()
    if norm.centred:
        vector = vector - vector.mean()
    vector = vector / (vector.square().mean() + norm.eps).sqrt()
    vector = vector * norm.weight.double() + norm.bias.double()
    return float((complement.double().T @ vector).norm() / vector.norm())


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("weights", ["fresh", "stirred"])
def test_the_sets_are_those_of_a_naive_loop(
    adapt: Adapt, gradient: Gradient, sentences: Sentences, preset: str, weights: str
) -> None:
    model = adapt(preset)
    parameters = stirred(model) if weights == "stirred" else initial(model)
    truth = sentences(model, 3)
    opening, sets = prepared(model, parameters, gradient(model, parameters, truth))
    gate = sets._gate
    for position in (0, 1, 7, 17):
        passing = set(sets.at(position).tolist())
        for token in [*range(0, 2048, 17), *(ids[0] for ids in truth), *passing]:
            if not opening.words[token].any():  # a padding row: its direction is not defined
                continue
            vector = opening.inputs(torch.tensor([token]), torch.tensor([position]))
            limit = max(gate.factor * gate.span.expected(vector).item(), 1e-4)
            distance = naive(opening, token, position, gate.span.complement)
            if not 0.9 < distance / limit < 1.1:  # float32 may decide the closest
                assert (token in passing) == (distance < limit)
    for ids in truth:
        for position, token in enumerate(ids):
            assert token in sets.at(position).tolist()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_sum_estimates_the_distance_where_the_threshold_is_wide(
    adapt: Adapt, gradient: Gradient, sentences: Sentences, preset: str
) -> None:
    model = adapt(preset)
    parameters = stirred(model)
    opening, sets = prepared(model, parameters, gradient(model, parameters, sentences(model, 3)))
    vague = replace(sets._gate, span=replace(sets._gate.span, blurred=True))
    positions = torch.tensor([0, 5] if sets.positions > 1 else [0])
    draws = [  # of random directions, which all tokens of one draw share
        TokenSets(opening, vague, torch.Generator().manual_seed(seed))._distance(positions)
        for seed in range(8)
    ]
    errors = []
    for token in range(0, 2048, 31):
        vector = opening.inputs(torch.tensor([token]), torch.tensor([0]))
        lengths = vector.norm() / sets._gate.length  # the sum takes all inputs for equally long
        wanted = naive(opening, token, 0, sets._gate.span.complement)
        if wanted > thresholds.TOKEN_FLOOR:  # float32's sum tells no less
            errors += [told[token, 0].item() / (wanted * lengths.item()) for told in draws]
    spread = torch.tensor(errors)
    assert abs(spread.mean() - 1) < 0.05 and spread.std() < 0.2  # 12 % for 32 directions


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("weights", ["fresh", "stirred"])
def test_a_narrow_threshold_is_compared_with_what_no_scale_makes_less(
    adapt: Adapt, gradient: Gradient, sentences: Sentences, preset: str, weights: str
) -> None:
    model = adapt(preset)
    parameters = stirred(model) if weights == "stirred" else initial(model)
    opening, sets = prepared(model, parameters, gradient(model, parameters, sentences(model, 3)))
    sets = TokenSets(opening, replace(sets._gate, factor=1.0), torch.Generator().manual_seed(0))
    assert sets._narrow
    norm, positions = opening.norm, torch.tensor([0, 5] if sets.positions > 1 else [0])
    estimates = sets._distance(positions)  # (V, P)
    bare = replace(norm, weight=torch.ones_like(norm.weight), bias=torch.zeros_like(norm.bias))
    for place, position in enumerate(positions.tolist()):
        tokens = torch.arange(1, 2048, 7)
        embedded = opening.embedding(tokens, torch.full_like(tokens, position)).double()
        views = bare(embedded) @ sets._turned.double() + sets._offset.double()  # (N, k)
        exact = views.norm(dim=1) * sets._scale
        assert (estimates[tokens, place] <= exact * 1.001 + 1e-3).all()
        assert (estimates[tokens, place] > 0.1 * exact).double().mean() > 0.9  # and still tells


def test_positions_beyond_the_models_do_not_matter_to_rotary_ones(
    adapt: Adapt, gradient: Gradient, sentences: Sentences
) -> None:
    model = adapt("llama-tiny")
    parameters = initial(model)
    _, sets = prepared(model, parameters, gradient(model, parameters, sentences(model, 2)))
    assert sets.positions == 1
    assert sets.at(0).tolist() == sets.at(9).tolist() == sets.at(4000).tolist()
