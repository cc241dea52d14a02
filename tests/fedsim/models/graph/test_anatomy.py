"""What a run of a model tells of it, against what its type is known to be."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fedsim.errors import BadInput, UnsupportedObservation
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.models.families.llama import LlamaAdapter
from fedsim.models.graph import discover
from tests.fedsim.models.graph.tiny import CONFIGS, tiny
from tests.fedsim.models.insides import caught, stirred

# by hand, from transformers' code: causal, learned positions, the MLP reads what attention made
KNOWN = {
    "qwen3": (True, False, True),
    "falcon": (True, False, False),
    "opt": (True, True, True),
    "roberta": (False, True, True),
    "deberta-v2": (False, False, True),
}


@pytest.fixture(scope="module", params=sorted(KNOWN))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return tiny(tmp_path_factory.mktemp("model"), request.param)


@pytest.mark.slow
def test_a_model_is_what_its_type_is_known_to_be(model: ModelAdapter) -> None:
    assert model.by_graph and model.layers == 3 and not model.notes
    assert (model.causal, model.positional, model.mixes) == KNOWN[model.family]


def test_trunks_end_in_what_the_next_block_reads(model: ModelAdapter) -> None:
    parameters = stirred(model)
    ids = torch.randint(5, model.vocabulary, (2, 9), generator=torch.Generator().manual_seed(3))
    trunks = model.trunks(parameters, 0, 1)
    for depth, trunk in enumerate(trunks):
        name = model.projections(depth)[0].name.removesuffix(".weight")
        with caught(model.module.get_submodule(name)) as read, torch.no_grad():
            model.module(input_ids=ids, attention_mask=torch.ones_like(ids))
        assert torch.allclose(trunk.inputs(ids)[0], read[0].view(2, 9, -1), atol=1e-5)
        if model.causal:
            _, past = trunk.inputs(ids[:, :7])
            grown = [trunk.inputs(ids[:, [place]], first=place, past=past)[0] for place in (7,)]
            assert torch.allclose(grown[0][:, 0], read[0].view(2, 9, -1)[:, 7], atol=1e-5)


def test_single_tokens_and_block_0_in_the_open_are_what_the_model_computes(
    model: ModelAdapter,
) -> None:
    parameters = stirred(model)
    ids = torch.randint(5, model.vocabulary, (1, 8), generator=torch.Generator().manual_seed(4))
    (trunk,) = model.trunks(parameters, 0)
    wanted = trunk.inputs(ids)[0][0]
    read = model.entry(parameters).inputs(ids[0].flip(0), torch.arange(8).flip(0))
    assert torch.allclose(read.flip(0), wanted, atol=1e-5)
    opening = model.opening(parameters)
    assert (opening is not None) == (model.family in ("qwen3", "opt", "roberta"))
    if opening is not None:
        wanted = model.middle(parameters).inputs(ids)[0]
        assert torch.allclose(opening.middles(ids, causal=model.causal), wanted, atol=1e-4)


class MisnamedAdapter(LlamaAdapter):
    """What somebody who takes Qwen3 for a LLaMA would write."""

    family = "qwen3"


def test_a_family_that_does_not_fit_gives_way_and_says_so(tmp_path: Path) -> None:
    right = tiny(tmp_path, "qwen3")
    wrong = MisnamedAdapter(right.spec, right.config, right.tokenizer)
    assert wrong.by_graph
    (note,) = wrong.notes
    assert "is not what the family qwen3 says of it (what the MLP of block 0 reads)" in note
    parameters = wrong.initial_parameters()
    assert wrong.notes == [note]  # once, however often it is built
    (trunk,) = wrong.trunks(parameters, 1)
    (other,) = right.trunks(parameters, 1)
    ids = torch.tensor([[9, 8, 7, 6]])
    assert torch.equal(trunk.inputs(ids)[0], other.inputs(ids)[0])


def test_the_weights_are_as_they_were_once_a_model_was_met(tmp_path: Path) -> None:
    model = tiny(tmp_path, "opt")
    module: nn.Module = model.module
    norms = [part for part in module.modules() if isinstance(part, nn.LayerNorm)]
    assert norms and all(bool((norm.weight == 1).all()) for norm in norms)


class Blockless(nn.Module):
    """A model that has nothing to look into."""

    base_model_prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self.config = CONFIGS["qwen3"]
        self.device = torch.device("cpu")
        self.head = nn.Linear(4, 2)

    @property
    def base_model(self) -> nn.Module:
        return self


def test_a_model_without_blocks_is_said_to_have_none() -> None:
    with pytest.raises(UnsupportedObservation, match="no list of blocks of linear maps"):
        discover(Blockless())


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_decoder_is_bad_input(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    with pytest.raises(BadInput, match=f"is a '{kind}' model; wanted a decoder or an encoder"):
        load_adapter(ModelSpec(name=str(tmp_path), weights="random"))
