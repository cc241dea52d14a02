"""The two checks of (prefix, token) pairs against the model's own forward pass."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from attacks.dager.prefixes import BlockCheck, MiddleCheck
from attacks.dager.span import Span, open_gate
from fedsim.models import ModelAdapter, ModelSpec
from fedsim.models.families.llama import LlamaAdapter
from fedsim.models.presets import VOCABULARY, preset_tokenizer
from tests.conftest import Adapt, initial
from tests.fedsim.models.insides import caught, opened, stirred

PRESETS = ["gpt2-tiny", "llama-tiny"]
PREFIXES = [(9, 10, 11), (400, 10, 12), (9, 800, 3)]
TOKENS = torch.tensor([5, 77, 900, 1201])


def some_span(width: int, rank: int) -> Span:
    basis, _ = torch.linalg.qr(
        torch.randn(width, width, generator=torch.Generator().manual_seed(3))
    )
    return Span(
        basis=basis[:, :rank],
        complement=basis[:, rank:],
        noise=torch.full((rank,), 1e-6),
        rank=rank,
        blurred=False,
    )


def read(model: ModelAdapter, ids: tuple[int, ...]) -> Tensor:
    """Return what block 0's MLP reads at the last token of ``ids``, by a hook: (D,)."""
    reader = model.projections(0, "middle")[0].name.removesuffix(".weight")
    module: Any = model.module
    with caught(module.get_submodule(reader)) as inputs, torch.no_grad():
        module(input_ids=torch.tensor([ids]))
    return inputs[0][0, -1]


def grown(check: MiddleCheck | BlockCheck, start: tuple[int, ...]) -> None:
    """Have ``check`` hold ``PREFIXES``, token by token."""
    check.begin(start)
    for place in range(3):
        ids = sorted({prefix[place] for prefix in PREFIXES})
        check.excess(torch.ones(1 if not place else 3, len(ids), dtype=torch.bool),
                     torch.tensor(ids), len(start) + place)  # fmt: skip
        check.advance(torch.tensor([[row * bool(place), ids.index(prefix[place])]
                                    for row, prefix in enumerate(PREFIXES)]))  # fmt: skip


def rotary(kind: str) -> ModelAdapter:
    """Return a small LLaMA whose rotary positions are scaled."""
    long: dict[str, Any] = {
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 32,
    }
    more = long if kind == "longrope" else {}
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        rope_parameters={"rope_type": kind, "rope_theta": 10_000.0, "factor": 2.0, **more},
    )  # fmt: skip
    spec = ModelSpec(name=kind, weights="random")
    return LlamaAdapter(spec, config, preset_tokenizer(LlamaAdapter))


@pytest.mark.slow
@pytest.mark.parametrize("preset", [*PRESETS, "dynamic", "linear", "longrope", "yarn"])
@pytest.mark.parametrize("start", [(), (1, 2)])
def test_the_middle_check_computes_what_the_model_does(
    adapt: Adapt, preset: str, start: tuple[int, ...]
) -> None:
    model = adapt(preset) if preset in PRESETS else rotary(preset)
    opening = opened(model, stirred(model))
    rank = 60 * model.width // 192
    gate = open_gate(some_span(model.width, rank), torch.randn(64, model.width), 16.0, 0.4)
    check = MiddleCheck(opening, gate, torch.Generator().manual_seed(0))
    with torch.no_grad():
        grown(check, start)
        check.excess(torch.ones(3, 4, dtype=torch.bool), TOKENS, len(start) + 3)
        every = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        vectors, estimates = check._vectors(every), check._distance(slice(0, 3)).flatten()
    wanted = torch.stack(
        [read(model, (*start, *PREFIXES[row], int(TOKENS[place]))) for row, place in every.tolist()]
    )
    assert torch.allclose(vectors, wanted, atol=1e-4)
    distances = gate.span.distance(wanted) * wanted.norm(dim=1) / gate.length
    assert (estimates / distances).log().abs().max() < 0.7  # within a factor of two
    assert 0.65 < (estimates / distances).mean() < 1.2  # a norm's scale is chosen in its favour


@pytest.mark.parametrize("preset", PRESETS)
def test_pairs_that_are_not_asked_for_are_not_answered(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    opening = opened(model, initial(model))
    ids = (*model.prefix, 9)
    inside = torch.stack([read(model, ids), read(model, (*model.prefix, 10))])
    basis, _ = torch.linalg.qr(torch.cat([inside, torch.randn(model.width - 2, model.width)]).T)
    span = Span(basis=basis[:, :2], complement=basis[:, 2:], noise=torch.full((2,), 1e-6),
                rank=2, blurred=False)  # fmt: skip
    gate = open_gate(span, torch.randn(64, model.width), 16.0, 0.4)
    check = MiddleCheck(opening, gate, torch.Generator().manual_seed(0))
    tokens = torch.tensor([8, 9, 10])
    with torch.no_grad():
        check.begin(model.prefix)
        both, excess = check.excess(torch.ones(1, 3, dtype=torch.bool), tokens, len(model.prefix))
        assert both.tolist() == [[0, 1], [0, 2]] and excess.max() < 1.0
        asked = torch.tensor([[True, True, False]])
        chosen, _ = check.excess(asked, tokens, len(model.prefix))
    assert chosen.tolist() == [[0, 1]]


@pytest.mark.parametrize("preset", PRESETS)
def test_no_token_at_a_place_is_no_pair(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    parameters = initial(model)
    (trunk,) = model.trunks(parameters, 1)
    gate = open_gate(some_span(model.width, 60), torch.randn(64, model.width), 16.0, 0.4)
    generator, none = torch.Generator().manual_seed(0), torch.empty(0, dtype=torch.int64)
    for check in (MiddleCheck(opened(model, parameters), gate, generator), BlockCheck(trunk, gate)):
        with torch.no_grad():
            check.begin(model.prefix)
            chosen, excess = check.excess(torch.ones(1, 0, dtype=torch.bool), none, 1)
        assert (chosen.shape, excess.shape) == ((0, 2), (0,))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_block_check_measures_what_the_trunk_gives(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    parameters = initial(model)
    (trunk,) = model.trunks(parameters, 1)
    gate = open_gate(some_span(model.width, 60), torch.randn(64, model.width), 16.0, 0.4)
    check = BlockCheck(trunk, gate)
    grown(check, model.prefix)
    pairs, excess = check.excess(torch.ones(3, 4, dtype=torch.bool), TOKENS, len(model.prefix) + 3)
    for (row, place), value in zip(pairs.tolist(), excess, strict=True):
        ids = (*model.prefix, *PREFIXES[row], int(TOKENS[place]))
        wanted = gate.excess(trunk.inputs(torch.tensor([ids]))[0][0, -1:])
        assert torch.allclose(value, wanted[0], rtol=1e-3)
