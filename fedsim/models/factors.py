"""Gradients of a module's parameters, held as what it read and what its output was told.

A linear map's gradient over N places is the sum of N outer products: its inner product with another
gradient and its norm need the N vectors on either side, never the (O, I) matrix. So many of them
fit at once: K dummies of an attack, or K examples of DP-SGD.

Source: Goodfellow, "Efficient Per-Example Gradient Computations", arXiv:1510.01799 (norms of linear
        maps); Li et al., ICLR 2022, arXiv:2110.05679, sec. 4 (embeddings: whether two places hold
        the same token stands for their inputs' inner product); the inner product with an
        observed gradient is the same algebra.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from typing_extensions import override

from fedsim.models.norms import kind_of, normed

LINEAR = (nn.Linear, Conv1D)  # x W^T + b, and GPT-2's x W + b

Holders = dict[nn.Parameter, list[tuple[nn.Module, str]]]
Caught = dict[nn.Module, tuple[Tensor, Tensor]]
Runs = dict[nn.Module, list[tuple[Tensor, Tensor]]]


class RunsTwice(RuntimeError):
    """A module ran twice where its gradient is that of one run."""


class Factor(Protocol):
    """One parameter's gradient for each of K candidates or examples."""

    @property
    def count(self) -> int:
        """K."""
        ...

    def inner(self, observed: Tensor) -> Tensor:
        """Return the inner product with ``observed``: (K,).

        It has the parameter's shape, or is (K, *shape): one for each.
        """
        ...

    def square(self) -> Tensor:
        """Return the squared norm: (K,)."""
        ...

    def dense(self, shape: torch.Size) -> Tensor:
        """Return the gradient itself: (K, *shape)."""
        ...

    def double(self) -> "Factor":
        """Return the same in float64."""
        ...


@dataclass(frozen=True)
class Outer(Factor):
    """The gradient of a linear map's weight: (O, I), or (I, O) where it is ``flipped`` (Conv1D)."""

    inputs: Tensor  # (K, N, I) what the map read
    errors: Tensor  # (K, N, O) dL/d(its output)
    flipped: bool

    @property
    @override
    def count(self) -> int:
        return len(self.inputs)

    @override
    def inner(self, observed: Tensor) -> Tensor:
        weight = observed.mT if self.flipped else observed  # (O, I)
        return (torch.matmul(self.errors, weight) * self.inputs).sum(dim=(1, 2))

    @override
    def square(self) -> Tensor:
        alike = self.inputs @ self.inputs.mT  # (K, N, N)
        return (alike * (self.errors @ self.errors.mT)).sum(dim=(1, 2))

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        weight = self.errors.mT @ self.inputs  # (K, O, I)
        return weight.mT if self.flipped else weight

    @override
    def double(self) -> "Outer":
        return Outer(self.inputs.double(), self.errors.double(), self.flipped)


@dataclass(frozen=True)
class Lookups(Factor):
    """The gradient of an embedding: each of N lookups adds its error to one row."""

    ids: Tensor  # (K, N) int64
    errors: Tensor  # (K, N, D)

    @property
    @override
    def count(self) -> int:
        return len(self.ids)

    @override
    def inner(self, observed: Tensor) -> Tensor:
        return (self.errors * observed[self.ids]).sum(dim=(1, 2))

    @override
    def square(self) -> Tensor:
        same = self.ids[:, :, None] == self.ids[:, None, :]  # (K, N, N)
        return (same * (self.errors @ self.errors.mT)).sum(dim=(1, 2))

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        empty = self.errors.new_zeros(len(self.ids), *shape)
        places = self.ids[..., None].expand(self.errors.shape)
        return empty.scatter_add(1, places, self.errors)

    @override
    def double(self) -> "Lookups":
        return Lookups(self.ids, self.errors.double())


@dataclass(frozen=True)
class Plain(Factor):
    """A gradient as it is: of a bias, of a norm's weight."""

    value: Tensor  # (K, *shape)

    @property
    @override
    def count(self) -> int:
        return len(self.value)

    @override
    def inner(self, observed: Tensor) -> Tensor:
        return (self.value * observed).flatten(1).sum(dim=1)

    @override
    def square(self) -> Tensor:
        return self.value.square().flatten(1).sum(dim=1)

    @override
    def dense(self, shape: torch.Size) -> Tensor:
        return self.value

    @override
    def double(self) -> "Plain":
        return Plain(self.value.double())


def known(module: nn.Module) -> bool:
    """Return whether ``module`` is one whose gradients :func:`factor` can tell."""
    plain = type(module) in (*LINEAR, nn.Embedding) or _is_linear(module)
    return plain or kind_of(module) is not None


def _is_linear(module: nn.Module) -> bool:
    """Return whether a module of a class of its own computes what ``nn.Linear`` does (Falcon's)."""
    if not isinstance(module, nn.Linear) or [*module.children()]:
        return False
    rows = torch.linspace(-1, 1, 2 * module.in_features).view(1, 2, -1).to(module.weight)
    with torch.no_grad():
        try:
            made = module(rows)
        except Exception:  # it wants more than rows, and says so its own way
            return False
        wanted = nn.functional.linear(rows, module.weight, module.bias)
    return isinstance(made, Tensor) and torch.allclose(made, wanted, atol=1e-5)


def factor(module: nn.Module, name: str, read: Tensor, errors: Tensor) -> Factor:
    """Return the gradient of ``module``'s parameter called ``name``.

    Args:
        module: a linear map, an embedding or a norm; see :func:`known`.
        name: ``weight`` or ``bias``.
        read: (K, N, I) what it read; of an embedding (K, N) ids.
        errors: (K, N, O) dL/d(its output).
    """
    if isinstance(module, nn.Embedding):
        if module.padding_idx is not None:  # autograd gives that row no gradient
            errors = errors.masked_fill((read == module.padding_idx)[..., None], 0.0)
        return Lookups(read, errors)
    if name == "bias":
        return Plain(errors.sum(dim=1))
    if isinstance(module, LINEAR):
        return Outer(read, errors, isinstance(module, Conv1D))
    return Plain((errors * normed(module, read)).sum(dim=1))


NAMING_HEADS = ("LMPredictionHead", "LMHead")  # BERT's and RoBERTa's, by transformers' names


def holders(module: nn.Module) -> Holders:
    """Return, for each parameter, the modules that compute with it, and what they call it.

    A head that only names the bias of the map within it, as transformers' heads of masked language
    models do, does not.
    """
    made: Holders = {}
    for part in module.modules():
        if own := list(part.named_parameters(recurse=False)):
            names = type(part).__name__.endswith(NAMING_HEADS)
            lent = {p for child in part.children() for p in child.parameters() if names}
            for name, p in own:
                if p not in lent:
                    made.setdefault(p, []).append((part, name))
    return made


@contextlib.contextmanager
def watched(modules: Iterable[nn.Module]) -> Iterator[Caught]:
    """Collect what each of ``modules`` reads and gives, inside the block.

    Raises:
        RunsTwice: one ran twice: its gradients would have to be added.
    """
    caught: Caught = {}

    def note(part: nn.Module, read: Tensor, result: Tensor) -> None:
        if part in caught:
            raise RunsTwice(f"{type(part).__name__} runs twice in a step")
        caught[part] = (read, result)

    with _noted(modules, note):
        yield caught


@contextlib.contextmanager
def runs_of(modules: Iterable[nn.Module]) -> Iterator[Runs]:
    """Collect what each of ``modules`` reads and gives each time that it runs, inside the block."""
    runs: Runs = {}
    with _noted(modules, lambda part, *run: runs.setdefault(part, []).append(run)):
        yield runs


@contextlib.contextmanager
def _noted(
    modules: Iterable[nn.Module], note: Callable[[nn.Module, Tensor, Tensor], None]
) -> Iterator[None]:
    def hook(part: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
        if not result.requires_grad:  # a frozen embedding's
            result = result.detach().requires_grad_()
        note(part, given[0], result)
        return result

    hooks = [part.register_forward_hook(hook) for part in dict.fromkeys(modules)]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
