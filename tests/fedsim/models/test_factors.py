"""Factors of gradients against autograd, in float64, on sizes that are not round."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from fedsim.models.factors import RunsTwice, factor, holders, known, watched
from tests.conftest import Adapt

K, N, D = 3, 5, 7

MODULES: list[nn.Module] = [
    nn.Linear(D, 4),
    nn.Linear(D, 4, bias=False),
    Conv1D(4, D),
    nn.LayerNorm(D),
    nn.RMSNorm(D, eps=1e-5),
    nn.Embedding(9, D),
    nn.Embedding(9, D, padding_idx=2),
]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def of_each(part: Any, read: Tensor, told: Tensor) -> list[dict[str, Tensor]]:
    """Return the gradients of K runs by autograd, each on its own; ``told`` is dL/d(output)."""
    names = [name for name, _ in part.named_parameters()]
    return [
        dict(zip(names, torch.autograd.grad(part(x), list(part.parameters()), e), strict=True))
        for x, e in zip(read, told, strict=True)
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda part: type(part).__name__)
def test_a_factor_is_autograds_gradient(module: nn.Module) -> None:
    part: Any = copy.deepcopy(module).double()
    read = drawn(K, N, D)
    if isinstance(part, nn.Embedding):  # tokens that occur twice, the padding among them
        read = torch.tensor([[1, 2, 1, 8, 2], [0, 0, 0, 0, 2], [3, 4, 5, 6, 7]])
    told = drawn(*part(read).shape, seed=1)
    wanted = of_each(part, read, told)
    assert known(part)
    for name, p in part.named_parameters():
        gradient = factor(part, name, read, told)
        dense = torch.stack([run[name] for run in wanted])
        torch.testing.assert_close(gradient.dense(p.shape), dense)
        torch.testing.assert_close(gradient.square(), dense.flatten(1).square().sum(1))
        other = drawn(*p.shape, seed=2)
        torch.testing.assert_close(gradient.inner(other), (dense * other).flatten(1).sum(1))
        assert gradient.count == K


@pytest.mark.parametrize("module", [nn.PReLU(), nn.GroupNorm(1, 8), nn.Conv1d(2, 3, 1)])
def test_what_is_no_map_no_lookup_and_no_norm_is_not_known(module: nn.Module) -> None:
    assert not known(module)


def test_who_only_names_its_childs_parameter_does_not_hold_it(adapt: Adapt) -> None:
    module: Any = adapt("bert-tiny", task="masked-lm").module
    held = holders(module)
    head = module.cls.predictions
    assert head.bias is head.decoder.bias  # transformers ties them
    assert held[head.bias] == [(head.decoder, "bias")]
    words = module.get_input_embeddings()
    assert held[words.weight] == [(words, "weight"), (head.decoder, "weight")]
    assert set(held) == set(module.parameters())


def test_what_a_module_read_and_gave_is_collected_and_no_hook_stays() -> None:
    part, x = LlamaRMSNorm(D), drawn(2, D).float()
    with watched([part, part]) as caught:
        result = part(x)
    assert caught[part][0] is x and caught[part][1] is result
    assert not part._forward_hooks
    with pytest.raises(RunsTwice, match="LlamaRMSNorm runs twice in a step"), watched([part]):
        part(part(x))
    assert not part._forward_hooks
