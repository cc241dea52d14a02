"""Tensors in memory that two processes share: written by one, mapped as its own copy by the other.

A copy of a page is made when it is written to, so what a worker does to the tensors it was given
stays with it, whichever way it does it.
"""

import os
import tempfile
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedsim.types import Parameters

ALIGNED = 64  # bytes, as torch's own allocator does: how sums are cut up may hang on it


@dataclass(frozen=True)
class Row:
    """Where one tensor lies."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # bytes

    def of(self, memory: torch.UntypedStorage) -> Tensor:
        """Return the tensor, a view of ``memory``."""
        made = torch.empty(0, dtype=self.dtype)
        return made.set_(memory, self.start // made.element_size(), self.shape)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Places:
    """Where tensors lie in a piece of shared memory."""

    rows: tuple[Row, ...]
    size: int  # bytes, at least 1

    @classmethod
    def of(cls, tensors: Parameters) -> "Places":
        """Return a table that has a place for each of ``tensors``."""
        rows, end = [], 0
        for name, tensor in tensors.items():
            rows.append(Row(name, tensor.dtype, tuple(tensor.shape), end))
            end += -(-tensor.numel() * tensor.element_size() // ALIGNED) * ALIGNED
        return cls(tuple(rows), max(end, 1))

    def mapped(self, file: int, *, shared: bool = False) -> dict[str, Tensor]:
        """Return the tensors in ``file``, a descriptor, by name; by default a copy of one's own."""
        memory: Any = torch.UntypedStorage.from_file(f"/dev/fd/{file}", shared, self.size)
        return {row.name: row.of(memory) for row in self.rows}


class SharedTensors:
    """Tensors written into memory that is given away by its file descriptor."""

    def __init__(self, tensors: Parameters) -> None:
        self.places = Places.of(tensors)
        self.file = _anonymous(self.places.size)
        weakref.finalize(self, os.close, self.file)
        for name, place in self.places.mapped(self.file, shared=True).items():
            place.copy_(tensors[name].detach())


def _anonymous(size: int) -> int:
    """Return a descriptor of ``size`` bytes that have no name on any disk."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("fedsim")
    else:
        with tempfile.TemporaryFile() as kept:
            file = os.dup(kept.fileno())
    os.ftruncate(file, size)
    return file
