"""Norms against the modules that compute them, of families that we have and that we have not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from fedsim.errors import UnsupportedObservation
from fedsim.models import Norm
from fedsim.models.norms import kind_of, normed

D = 24


class Square(nn.Module):
    """Has a weight and an eps, and is no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(D)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True) + self.eps)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MODULES = [  # each with the eps that its own family's checkpoints have
    nn.LayerNorm(D, eps=1e-12),
    nn.LayerNorm(D, bias=False),
    nn.RMSNorm(D),
    nn.RMSNorm(D, eps=1e-5),
    LlamaRMSNorm(D, eps=1e-6),
    MistralRMSNorm(D, eps=1e-5),
    Qwen2RMSNorm(D, eps=1e-6),
    GemmaRMSNorm(D, eps=1e-6),  # its eps is called eps, and 1 is added to its weight
]


@pytest.mark.parametrize("module", MODULES, ids=lambda norm: type(norm).__name__)
@pytest.mark.parametrize("size", [1.0, 1e-3])  # small enough that eps matters
def test_a_norm_computes_what_its_module_does(module: nn.Module, size: float) -> None:
    for place, p in enumerate(module.parameters()):
        nn.init.uniform_(p, -2.0, 2.0, torch.Generator().manual_seed(place))
    x = size * (drawn(5, D) + 0.5)
    with torch.no_grad():
        torch.testing.assert_close(Norm.of(module)(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", MODULES, ids=lambda norm: type(norm).__name__)
def test_what_a_norm_multiplies_by_its_weight_is_autograds(module: Any) -> None:
    x, told = drawn(3, 4, D), drawn(3, 4, D, seed=1)
    (wanted,) = torch.autograd.grad((module(x) * told).sum(), module.weight)
    got = (normed(module, x) * told).sum(dim=(0, 1))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(D, D),
        nn.BatchNorm1d(D),
        nn.GroupNorm(1, D),
        nn.GroupNorm(4, D),
        nn.LayerNorm(D, elementwise_affine=False),
        OlmoLayerNorm(D),  # without a weight
        Square(),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_what_is_no_norm_is_refused_and_comes_back_as_it_was(module: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert kind_of(module) is None
    with pytest.raises(UnsupportedObservation, match=f"a norm must be .*{type(module).__name__}"):
        Norm.of(module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_class_is_known_once_whatever_its_first_module_holds() -> None:
    class Fresh(LlamaRMSNorm):
        pass

    broken = Fresh(D)
    nn.init.constant_(broken.weight, float("nan"))
    assert kind_of(broken) == kind_of(Fresh(D)) == kind_of(LlamaRMSNorm(D))


class Shifted(nn.Module):
    """An RMSNorm whose weight is counted from 0 or from 1, by how it was made."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.weight, self.eps, self.shift = nn.Parameter(torch.ones(D)), 1e-6, shift

    def forward(self, x: Tensor) -> Tensor:
        scale = (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return x * scale * (self.weight + self.shift)


def test_two_norms_of_one_class_may_differ() -> None:
    rows = drawn(3, D)
    for module in (Shifted(0.0), Shifted(1.0)):
        assert torch.allclose(Norm.of(module)(rows), module(rows), atol=1e-5)


def test_a_norm_with_dropout_in_it_is_none_that_is_known() -> None:
    module = Shifted(0.0)
    module.dropout = nn.Dropout(0.5)
    assert kind_of(module.eval()) is None


def test_what_cannot_be_tried_is_none_that_is_known() -> None:
    assert kind_of(nn.InstanceNorm1d(D, affine=True)) is None
