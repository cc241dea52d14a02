"""Gradients of many clients of one shape by one backward pass, none of a weight formed before need.

Source: Goodfellow, arXiv:1510.01799: what a map read and what its output was told (see
        :mod:`fedsim.models.factors`) are its gradient, of each client for itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.errors import UnsupportedObservation
from fedsim.models import ModelAdapter
from fedsim.models.batches import IGNORED
from fedsim.models.factors import Factor, Lookups, Outer, Plain, factor, holders, known, watched
from fedsim.training import Examples


@dataclass(frozen=True)
class Gradients:
    """Each of K clients' dL/dθ, as factors: several where modules share a parameter."""

    factors: Mapping[str, Sequence[Factor]]
    shapes: Mapping[str, torch.Size]
    clients: int  # K

    def of(self, client: int) -> dict[str, Tensor]:
        """Return one client's gradient itself."""
        return {name: self._dense(name, client) for name in self.shapes}

    def _dense(self, name: str, client: int) -> Tensor:
        shape = self.shapes[name]
        parts = [_only(one, client).dense(shape)[0] for one in self.factors[name]]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def gradients_of(
    adapter: ModelAdapter,
    module: nn.Module,
    clients: Sequence[Examples],
    generator: torch.Generator,
) -> Gradients:
    """Return the gradient that each of ``clients``, alike in shape, has of its own mean loss.

    Args:
        adapter: the model's.
        module: its workspace, with the weights loaded, in evaluation mode.
        clients: what each holds.
        generator: chooses the tokens to mask; read for masked-lm only.

    Raises:
        RunsTwice: a module runs twice in a step.
        UnsupportedObservation: a parameter is of another kind than a map, an embedding or a norm.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    owners = holders(module)
    parts = {part for p in trained.values() for part, _ in owners[p]}
    if strange := [part for part in parts if not known(part)]:
        raise UnsupportedObservation(f"no rule for a parameter of {type(strange[0]).__name__}")
    sequences = tuple(text for one in clients for text in one.sequences)
    labels = tuple(label for one in clients for label in one.labels)
    batch = adapter.batch(sequences, labels, generator)
    with watched(parts) as caught, torch.enable_grad():
        losses = adapter.losses(module, batch)  # (K B,)
        total = (losses * shares(adapter, batch["labels"], len(clients))).sum()
        results = [result for _, result in caught.values()]
        errors = torch.autograd.grad(total, results, allow_unused=True)
    told = {
        part: (read.detach(), torch.zeros_like(result) if error is None else error)
        for (part, (read, result)), error in zip(caught.items(), errors, strict=True)
    }
    count = len(clients)
    return Gradients(
        factors={
            name: [
                factor(part, own, *(_by_client(part, count, *told[part])))
                for part, own in owners[p]
                if part in told
            ]
            or [Plain(p.new_zeros(count, *p.shape))]
            for name, p in trained.items()
        },
        shapes={name: p.shape for name, p in trained.items()},
        clients=count,
    )


def shares(adapter: ModelAdapter, labels: Tensor, clients: int) -> Tensor:
    """Return the weight of each example in its client's mean loss: (K B,)."""
    if adapter.spec.task == "classification":
        return labels.new_full((len(labels),), clients / len(labels), dtype=torch.float32)
    labels = labels[:, 1:] if adapter.spec.task == "causal-lm" else labels
    counts = (labels != IGNORED).sum(dim=1).float().view(clients, -1)  # (K, B)
    return (counts / counts.sum(dim=1, keepdim=True)).flatten()


def _by_client(
    part: nn.Module, clients: int, read: Tensor, errors: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what ``part`` read and was told as (K, N, I) and (K, N, O); of ids (K, N)."""
    if isinstance(part, nn.Embedding):
        read = read.expand(errors.shape[:-1]).reshape(clients, -1)
    else:
        read = read.reshape(clients, -1, read.shape[-1])
    return read, errors.reshape(clients, -1, errors.shape[-1])


def _only(one: Factor, client: int) -> Factor:
    """Return the factor of one client alone."""
    place = slice(client, client + 1)
    if isinstance(one, Outer):
        return Outer(one.inputs[place], one.errors[place], one.flipped)
    if isinstance(one, Lookups):
        return Lookups(one.ids[place], one.errors[place])
    assert isinstance(one, Plain)
    return Plain(one.value[place])
