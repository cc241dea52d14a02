"""The stand-in refuses what CUDA refuses, and else computes what the CPU computes.

Where there is a GPU, the same is asked of it: the rules are CUDA's.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import Adapt
from tests.standin import There, standin

COUNT = 3
Case = Callable[[Tensor, Tensor, torch.device], Any]


@pytest.fixture(params=["stand-in", "cuda"] if torch.cuda.is_available() else ["stand-in"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    real = contextlib.nullcontext(torch.device("cuda"))
    with standin() if request.param == "stand-in" else real as there:
        yield there


def some() -> Tensor:
    return torch.randn(COUNT, COUNT, generator=torch.Generator().manual_seed(0))


MIXES: dict[str, Case] = {
    "a sum": lambda here, there, _: here + there,
    "a sum in place": lambda here, there, _: there.add_(here),
    "a device's scalar into the CPU": lambda here, there, _: here.add_(there[0, 0]),
    "a comparison": lambda here, there, _: here[0] < there,
    "two masks": lambda here, there, _: (here > 0) & (there > 0),
    "a product": lambda here, there, _: there @ here,
    "a product with a vector": lambda here, there, _: here @ there[0],
    "einsum": lambda here, there, _: torch.einsum("ij,jk->ik", here, there),
    "cat": lambda here, there, _: torch.cat([there, here]),
    "a stack of scalars": lambda here, there, _: torch.stack([there[0, 0], here[0, 0]]),
    "where": lambda here, there, _: torch.where(there > 0, there, here),
    "where by the CPU": lambda here, there, _: torch.where(here > 0, there, there),
    "a mask that fills": lambda here, there, _: there.masked_fill(here > 0, 0.0),
    "a CPU tensor by an index there": lambda here, there, _: here[there[0] > 0],
    "values by an index": lambda here, there, _: there.__setitem__(here > 0, here[here > 0]),
    "values into the CPU": lambda here, there, _: here.__setitem__(here > 0, there[there > 0]),
    "gather": lambda here, there, _: there.gather(1, (here > 0).long()),
    "index_add": lambda here, there, _: there.index_add(0, torch.arange(COUNT), there),
    "an embedding": lambda here, there, _: nn.functional.embedding(torch.arange(COUNT), there),
    "least squares": lambda here, there, _: torch.linalg.lstsq(there, here),
    "equal": lambda here, there, _: torch.equal(here, there),
    "numpy": lambda here, there, _: there.numpy(),
    "the CPU's generator": lambda here, there, device: torch.rand(
        2, generator=torch.Generator(), device=device
    ),
    "a draw": lambda here, there, _: torch.multinomial(
        there.abs(), 1, generator=torch.Generator()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_of_devices_raises(device: torch.device, name: str) -> None:
    here = some()
    there = here.to(device)
    with pytest.raises((RuntimeError, TypeError), match=r"device|numpy|generator"):
        MIXES[name](here, there, device)


def changed(one: Tensor, place: Any, value: Any) -> Tensor:
    result = one.clone()
    result[place] = value
    return result


ALLOWED: dict[str, Case] = {
    "algebra": lambda _, x, __: torch.linalg.qr(x @ x.T + 1).R.softmax(-1),
    "a vector times a matrix": lambda _, x, __: (x[0] @ x) @ x[1],  # squeezes in place
    "a sum with a scalar of the CPU": lambda here, x, _: x + here[0, 0],
    "where with a scalar of the CPU": lambda here, x, _: torch.where(x > 0, x, here.sum()),
    "an index of the CPU": lambda _, x, __: x[torch.tensor([2, 0])],
    "a mask of the CPU": lambda here, x, _: x[here > 0],
    "an index there": lambda _, x, __: x[x[0] > 0],
    "a list": lambda _, x, __: x[[2, 0], 1:],
    "an empty list": lambda _, x, __: x[[]],
    "a scalar as an index of the CPU's": lambda here, x, _: here[x.argmax() % COUNT],
    "a scalar into places": lambda here, x, _: changed(x, torch.tensor([2, 0]), here[0, 0]),
    "a number into places": lambda _, x, __: changed(x, [2, 0], 0.5),
    "a slice of the CPU's into a slice": lambda here, x, _: changed(x, slice(1, 3), here[:2]),
    "a copy": lambda here, x, _: torch.zeros_like(x).copy_(here),
    "a copy to the CPU": lambda here, x, _: torch.zeros_like(here).copy_(x) + here,
    "new tensors": lambda _, x, __: torch.cat([x.new_ones(1, COUNT), torch.full_like(x, 2), x]),
    "factories": lambda _, x, device: torch.cat(
        [x, torch.ones(1, COUNT, device=device), torch.tensor([[1.0, 2, 3]], device=device)]
    ),
    "numbers": lambda _, x, __: torch.tensor([x[0, 0].item(), float(x.sum()), bool(x.any())]),
    "lists": lambda _, x, __: torch.tensor(x.tolist()),
    "back": lambda here, x, _: x.cpu() + here,
    "to another's": lambda here, x, _: here.double().to(x) + x,
    "views": lambda _, x, __: x.T.flatten().view(1, -1).unbind(1)[4],
    "in place through a view": lambda _, x, __: changed(x, 0, 0.0).unsqueeze_(0),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_takes_gives_what_the_cpu_gives(device: torch.device, name: str) -> None:
    wanted = ALLOWED[name](some(), some(), torch.device("cpu"))
    found = ALLOWED[name](some(), some().to(device), device)
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    torch.testing.assert_close(found.cpu(), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny", "bert-tiny"])
def test_a_model_and_its_gradient_are_the_cpus(adapt: Adapt, preset: str) -> None:
    def gradient(where: torch.device) -> dict[str, Tensor]:
        module: Any = model.build()
        module.to(where)
        ids = torch.tensor([[9, 10, 11]], device=where)
        module(input_ids=ids, labels=torch.tensor([1], device=where)).loss.backward()
        return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}

    model = adapt(preset)
    wanted = gradient(torch.device("cpu"))
    with standin() as device:
        found = gradient(device)
        assert found.keys() == wanted.keys() != set()
        for name, one in found.items():
            assert isinstance(one, There) and one.device == device
            torch.testing.assert_close(one.cpu(), wanted[name])


def test_tied_weights_stay_tied(adapt: Adapt) -> None:
    with standin() as device:
        module: Any = adapt("gpt2-tiny", task="causal-lm").build()
        module.to(device)
        assert module.lm_head.weight is module.transformer.wte.weight


def test_nothing_is_computed_outside_of_its_block() -> None:
    with standin() as device:
        one = torch.ones(2).to(device)
    with pytest.raises(RuntimeError, match="outlived its block"):
        one + one
