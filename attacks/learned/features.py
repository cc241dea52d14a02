"""What a network is shown of an update, in numbers: linear in it, so that noise stays noise.

Source: hashing: Wu et al., UAI 2023, arXiv:2210.10880, sec. 3. The others are ours: the rows of
        learned positions (of one text, dL/d(its embedded tokens)); of a linear map, whose gradient
        is a sum over places of what it was told times what it read, the part of each place, by a
        filter that tells places by what the map reads there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from attacks.learned.gradients import Gradients
from fedsim.models.factors import Lookups, Outer
from fedsim.types import Parameters

VECTOR = 96  # numbers of a bias or a norm, at most
SKETCH = 8  # rows and columns of a matrix that tells no places
NEAR = 1e-4  # added to how far apart two directions are: the same ones are not endlessly near
RIDGE = 1e-3  # of the mean variance of what a map reads
SEED = 2210_10880  # of sketches and bins: the same in training and attack


class Seen(NamedTuple):
    """An update in numbers; of many, one after the other."""

    rows: Tensor  # (N, T, F) of each place
    whole: Tensor  # (N, G) of the update
    words: Tensor  # (N, K) int64: tokens whose embedding moved most
    marks: Tensor  # (N, T, K, 2) how much it moved, and how much as the place's position did


class Reader(Protocol):
    """Reads one parameter's part of an update."""

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return (T, F) of each place, or (G,)."""
        ...


@dataclass(frozen=True)
class PositionRows(Reader):
    """The rows of learned positions that the texts used."""

    first: int
    count: int  # T

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the rows: (T, D)."""
        return tensor[self.first : self.first + self.count]


@dataclass(frozen=True)
class Filtered(Reader):
    """A linear map's gradient, place by place."""

    right: Tensor  # (I, T)
    left: Tensor | None  # (O, F) directions of what its output is told; None: all O
    flipped: bool

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return what the output was told at each place, as far as the filter tells: (T, F)."""
        told = (tensor.mT if self.flipped else tensor) @ self.right  # (O, T)
        return told.mT if self.left is None else told.mT @ self.left


@dataclass(frozen=True)
class RandomSums(Reader):
    """Random sums of a tensor's entries."""

    left: Tensor | None
    right: Tensor | None

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the sums: (G,)."""
        tensor = tensor if self.left is None else self.left @ tensor.flatten(1)
        return (tensor if self.right is None else tensor @ self.right).flatten()


@dataclass(frozen=True)
class Features:
    """How updates of one protocol are read: each reader's numbers over a scale of their own."""

    places: Mapping[str, Reader]
    others: Mapping[str, Reader]
    embedding: str | None  # of words, where it trains
    positions: str | None
    marked: int  # K
    length: int  # T
    scales: Mapping[str, float]

    def __call__(self, tensors: Parameters) -> Seen | None:
        """Return one update in numbers, N = 1; None: it is zero, and says nothing."""
        norm = float(torch.stack([tensor.norm() for tensor in tensors.values()]).norm())
        if norm == 0:
            return None
        unit = {name: tensor.float() / norm for name, tensor in tensors.items()}
        rows = [self._read(name, one, unit) for name, one in self.places.items()]
        whole = [self._read(name, one, unit) for name, one in self.others.items()]
        one = next(iter(unit.values())).new_ones(self.length, 1)  # where nothing else is read
        words, marks = self._marks(unit)
        return Seen(
            torch.cat([one, *rows], dim=1)[None],
            torch.cat([one[0], *whole])[None],
            words[None],
            marks[None],
        )

    def _read(self, name: str, reader: Reader, tensors: Parameters) -> Tensor:
        return reader(tensors[name]) / self.scales.get(name, 1.0)

    def _marks(self, tensors: Parameters) -> tuple[Tensor, Tensor]:
        """Return the tokens whose embedding moved most (K,), and what tells of them (T, K, 2)."""
        any_ = next(iter(tensors.values()))
        if self.embedding is None:
            return any_.new_zeros(0, dtype=torch.int64), any_.new_zeros(self.length, 0, 2)
        moved = tensors[self.embedding]  # (V, D)
        norms, words = moved.norm(dim=1).topk(self.marked)  # (K,)
        strong = (norms / norms[0].clamp_min(1e-30) + 1e-4).log().expand(self.length, -1)
        alike = torch.zeros_like(strong)
        if self.positions is not None:
            places = self.places[self.positions](tensors[self.positions])  # (T, D)
            one, other = (nn.functional.normalize(v, dim=1) for v in (places, moved[words]))
            alike = -(1 + NEAR - one @ other.mT).log()  # of the same vector 9, of others 0 to 3
        return words, torch.stack([strong, alike], dim=2)


def find_features(
    gradients: Gradients | None,
    update: Parameters,
    length: int,
    noise: float,
    parts: Mapping[str, str],
    first: int,
    budget: int,
) -> Features:
    """Return how updates like ``update`` are read, scales aside.

    Args:
        gradients: of clients at the weights sent; None: they cannot be had as factors.
        update: of the parameters that travel.
        length: T.
        noise: the standard deviation of what is added to an entry, over a gradient's scale.
        parts: the names of ``embedding`` and ``positions``, where they train.
        first: the first position's row.
        budget: numbers of each place, all maps together.
    """
    positions, embedding = parts.get("positions"), parts.get("embedding")
    generator = torch.Generator().manual_seed(SEED)
    places: dict[str, Reader] = {}
    others: dict[str, Reader] = {}
    maps = [] if gradients is None else _maps(gradients, length)
    for name, tensor in update.items():
        if name == positions:
            places[name] = PositionRows(first, length)
        elif gradients is not None and name in maps:
            (one,) = gradients.factors[name]
            assert isinstance(one, Outer)
            most = max(4, budget // len(maps))
            places[name] = _filter(one, length, noise, most)
        elif name != embedding:
            others[name] = _sketch(tensor, generator)
    count = min(len(update[embedding]), 4 * length + 16) if embedding else 0
    return Features(places, others, embedding, positions, count, length, {})


def _maps(gradients: Gradients, length: int) -> list[str]:
    """Return the weights of linear maps that read each place."""
    return [
        name
        for name, factors in gradients.factors.items()
        if len(factors) == 1
        and isinstance(factors[0], Outer)
        and factors[0].inputs.shape[1] % length == 0
    ]


def _filter(one: Outer, length: int, noise: float, most: int) -> Filtered:
    """Return the filter of a map's gradient that, on average, errs least.

    Of the place s it is the v that has sum_t e_t (a_t v) near e_s, for what is read, a, and told,
    e, of the clients tried: a ridge regression of "it stands at s" on a, weighed by ||e||².
    """
    read, told = one.inputs.flatten(0, 1).double(), one.errors.flatten(0, 1).double()  # (M, I)
    place = torch.arange(len(read), device=read.device) % length
    wanted = nn.functional.one_hot(place, length).double()  # (M, T)
    weights = told.square().sum(dim=1, keepdim=True)
    gram = (weights * read).mT @ read  # (I, I)
    ridge = RIDGE * float(gram.diagonal().mean()) + 1e-30
    ridge += noise**2 * told.shape[1] * one.count
    gram.diagonal().add_(ridge)
    right = torch.linalg.solve(gram, (weights * read).mT @ wanted)
    left = None
    if told.shape[1] > most:
        spread = told.mT @ told
        left = torch.linalg.eigh(spread).eigenvectors[:, -most:].float()
    return Filtered(right.float(), left, one.flipped)


def _sketch(tensor: Tensor, generator: torch.Generator) -> RandomSums:
    def some(rows: int, columns: int) -> Tensor:
        drawn = torch.randn(rows, columns, generator=generator) / math.sqrt(max(rows, columns))
        return drawn.to(tensor.device)

    if tensor.ndim < 2:
        return RandomSums(None, some(len(tensor), VECTOR) if len(tensor) > VECTOR else None)
    flat = tensor.flatten(1).shape
    left = some(SKETCH, flat[0]) if flat[0] > SKETCH else None
    return RandomSums(left, some(flat[1], SKETCH) if flat[1] > SKETCH else None)


def scaled(features: Features, updates: Sequence[Parameters]) -> Features:
    """Return ``features`` with one scale a parameter: that of its numbers in ``updates``."""
    readers = {**features.places, **features.others}
    squares = dict.fromkeys(readers, 0.0)
    sizes = dict.fromkeys(readers, 1)
    for tensors in updates:
        norm = float(torch.stack([tensor.norm() for tensor in tensors.values()]).norm()) or 1.0
        for name, reader in readers.items():
            numbers = reader(tensors[name].float() / norm)
            squares[name] += float(numbers.square().sum())
            sizes[name] += numbers.numel()
    scales = {name: math.sqrt(squares[name] / sizes[name]) or 1.0 for name in readers}
    return Features(
        features.places, features.others, features.embedding, features.positions,
        features.marked, features.length, scales,
    )  # fmt: skip


@dataclass(frozen=True)
class Hashed:
    """The paper's: each entry is added into one of so many bins, all over one scale."""

    bins: int
    length: int  # T
    scale: float = 1.0

    def __call__(self, tensors: Parameters) -> Seen | None:
        """Return one update in numbers, N = 1; None: it is zero, and says nothing."""
        flat = torch.cat([tensor.flatten().float() for tensor in tensors.values()])
        norm = float(flat.norm())
        if norm == 0:
            return None
        whole = hashed(flat / norm, self.bins) / self.scale
        none = flat.new_zeros(1, 0, dtype=torch.int64)
        rows = flat.new_zeros(1, self.length, 0)
        return Seen(rows, whole[None], none, rows[..., None].expand(1, self.length, 0, 2))


def hashed(flat: Tensor, bins: int) -> Tensor:
    """Return the sums of a vector's entries over random bins: (bins,)."""
    generator = torch.Generator().manual_seed(SEED)
    places = torch.randint(bins, flat.shape, generator=generator).to(flat.device)
    return flat.new_zeros(bins).index_add_(0, places, flat)


def names_of(gradients: Gradients | None) -> list[str]:
    """Return the embeddings among factors."""
    if gradients is None:
        return []
    return [n for n, f in gradients.factors.items() if any(isinstance(o, Lookups) for o in f)]
