"""Ways to spoil a capture: its weights, its update, and what is said of them."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedsim import limits

BROADCAST, UPDATE, RECORD = "broadcast.safetensors", "update.safetensors", "observation.json"


@dataclass
class Captured:
    """What the three files of one capture say."""

    sent: dict[str, Tensor]
    update: dict[str, Tensor]
    told: dict[str, Any]

    @classmethod
    def read(cls, place: Path) -> "Captured":
        """Return what is in the directory of a capture."""
        told = json.loads((place / RECORD).read_text())
        return cls(load_file(place / BROADCAST), load_file(place / UPDATE), told)

    def write(self, place: Path) -> None:
        """Write it, whatever it is."""
        place.mkdir(parents=True)
        for name, tensors in ((BROADCAST, self.sent), (UPDATE, self.update)):
            save_file({k: v.clone().contiguous() for k, v in tensors.items()}, place / name)
        (place / RECORD).write_text(json.dumps(self.told))

    def matrices(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the update's matrices by name."""
        yield from ((name, tensor) for name, tensor in self.update.items() if tensor.ndim == 2)


Way = Callable[[Captured], None]


def _update(change: Callable[[Tensor], Tensor]) -> Way:
    def spoil(captured: Captured) -> None:
        captured.update = {name: change(tensor) for name, tensor in captured.update.items()}

    return spoil


def _sent(change: Callable[[Tensor], Tensor]) -> Way:
    def spoil(captured: Captured) -> None:
        captured.sent = {name: change(tensor) for name, tensor in captured.sent.items()}

    return spoil


def _config(**told: Any) -> Way:
    def spoil(captured: Captured) -> None:
        captured.told["config"] = {**captured.told["config"], **told}

    return spoil


def _said(**told: Any) -> Way:
    def spoil(captured: Captured) -> None:
        captured.told.update(told)

    return spoil


def _noise(tensor: Tensor) -> Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)).to(tensor.dtype)


def _one_bad(value: float) -> Way:
    def spoil(captured: Captured) -> None:
        name, tensor = next(captured.matrices())
        captured.update[name] = tensor.clone().fill_diagonal_(value)

    return spoil


def _rank_one(captured: Captured) -> None:
    for name, tensor in list(captured.matrices()):
        captured.update[name] = torch.outer(tensor[:, 0], tensor[0]).contiguous()


def _whole_rank(captured: Captured) -> None:
    for name, tensor in list(captured.matrices()):
        captured.update[name] = _noise(tensor) * tensor.std()


def _equal_embeddings(captured: Captured) -> None:
    for name, tensor in captured.sent.items():
        if tensor.ndim == 2 and ("emb" in name or "wte" in name):
            captured.sent[name] = tensor[:1].expand_as(tensor).contiguous()


def _half(captured: Captured) -> None:
    captured.update = dict(list(captured.update.items())[::2])


def _matrices_alone(captured: Captured) -> None:
    captured.update = dict(captured.matrices())


def _vectors_alone(captured: Captured) -> None:
    kept = {name for name, _ in captured.matrices()}
    captured.update = {k: v for k, v in captured.update.items() if k not in kept}


def _shuffled(captured: Captured) -> None:
    shapes: dict[torch.Size, list[str]] = {}
    for name, tensor in captured.update.items():
        shapes.setdefault(tensor.shape, []).append(name)
    old = dict(captured.update)
    for names in shapes.values():
        for name, other in zip(names, [*names[1:], names[0]], strict=True):
            captured.update[name] = old[other]


def _more_names(captured: Captured) -> None:
    captured.update |= {f"nobody.{n}": torch.ones(2, 2) for n in range(200)}


def _other_shape(captured: Captured) -> None:
    name, tensor = next(captured.matrices())
    captured.update[name] = (
        tensor.T.contiguous() if tensor.shape[0] != tensor.shape[1] else tensor[1:]
    )


WAYS: dict[str, Way] = {
    "an update of zeros": _update(torch.zeros_like),
    "an update of ones": _update(torch.ones_like),
    "an update of noise": _update(_noise),
    "a huge update": _update(lambda t: t * 1e30),
    "a tiny update": _update(lambda t: t * 1e-36),
    "its signs": _update(torch.sign),
    "a few numbers of it": _update(lambda t: torch.where(t.abs() < t.abs().max(), 0.0, t)),
    "an update in bfloat16": _update(lambda t: t.bfloat16()),
    "an update in float64": _update(lambda t: t.double()),
    "an update of whole numbers": _update(lambda t: t.long()),
    "one that is no number": _one_bad(math.nan),
    "one that is infinite": _one_bad(math.inf),
    "rank one everywhere": _rank_one,
    "whole rank everywhere": _whole_rank,
    "half of it": _half,
    "its matrices alone": _matrices_alone,
    "its vectors alone": _vectors_alone,
    "each in another's place": _shuffled,
    "names of nobody": _more_names,
    "a matrix of another shape": _other_shape,
    "weights of zeros": _sent(torch.zeros_like),
    "weights of ones": _sent(torch.ones_like),
    "huge weights": _sent(lambda t: t * 1e18),
    "weights of noise": _sent(_noise),
    "embeddings that are equal": _equal_embeddings,
    "weights that are no numbers": _sent(lambda t: t * math.nan),
    "no example": _said(num_examples=0),
    "as many examples as may be": _said(num_examples=limits.EXAMPLES),
    "the other kind": lambda c: c.told.update(
        kind="delta" if c.told["kind"] == "gradient" else "gradient"
    ),
    "as many epochs as may be": _config(local_epochs=limits.EPOCHS, algorithm="fedavg"),
    "as many steps as may be": _config(max_steps=limits.EPOCHS, algorithm="fedavg"),
    "no learning rate": _config(learning_rate=0.0),
    "a huge learning rate": _config(learning_rate=1e30),
    "adam, dropout, clipping": _config(optimizer="adamw", dropout=True, max_grad_norm=1e-9),
}  # fmt: skip
