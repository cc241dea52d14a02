"""What simulated clients hold: windows of auxiliary text, or tokens drawn one by one.

Source: Wu et al., UAI 2023, arXiv:2210.10880: LTI learns from text like the client's, LTI-P from
        pseudo-text whose tokens are drawn independently, by how often each occurs.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from attacks.learned.shape import Shape
from fedsim.errors import UnsupportedObservation
from fedsim.files import read_text
from fedsim.models import ModelAdapter, ModelSpec
from fedsim.types import Tokens

MOST = 2**30  # bytes of an auxiliary file
HELD_OUT = 10  # every tenth part of the text is for the held-out accuracy
SHORTEST = 2  # tokens of a text that has a next one to predict
NONE = -1  # where a text has ended
SMOOTH = 0.1  # added to each token's count, so that none is impossible
Prior = Literal["aux", "unigram"]


def check_auxiliary(path: str) -> None:
    """Raise ValueError where ``path`` is neither empty nor a file."""
    if path and not Path(path).is_file():
        raise ValueError(f"auxiliary must be a text file, one text a line, got {path!r}")


@dataclass(frozen=True)
class Source:
    """Pseudo-texts for a model; the same generator state gives the same ones."""

    model: ModelAdapter
    auxiliary: str  # a text file, one text a line; "": every token is as likely
    prior: Prior

    @functools.cached_property
    def _tokens(self) -> tuple[Tensor, Tensor]:
        return _stream(self.auxiliary, self.model) if self.auxiliary else (torch.empty(0),) * 2

    @property
    def digest(self) -> str:
        """A fingerprint of the auxiliary text."""
        return _digest(self.auxiliary) if self.auxiliary else ""

    @functools.cached_property
    def log_unigram(self) -> Tensor:
        """How likely each token is, in nats: (V,) float32."""
        counts = torch.full((self.model.vocabulary,), SMOOTH, dtype=torch.float64)
        if self.auxiliary:
            counts += torch.bincount(self._tokens[0], minlength=len(counts))
        else:
            counts[len(self.model.tokenizer) :] = 1e-6  # rows of the embedding that are no token
        return (counts / counts.sum()).log().float()

    def draw(self, shape: Shape, generator: torch.Generator, *, held_out: bool = False) -> Tensor:
        """Return one client's texts, NONE after their ends: (B, T) int64."""
        model, rows = self.model, torch.full((shape.texts, shape.longest), NONE)
        around = len(model.prefix) + len(model.suffix)
        for row, length in enumerate(shape.drawn(max(around + 1, SHORTEST), generator)):
            free = length - around
            body = self._body(free, generator, held_out)
            rows[row, :length] = torch.tensor([*model.prefix, *body.tolist(), *model.suffix])
        return rows

    def _body(self, length: int, generator: torch.Generator, held_out: bool) -> Tensor:
        if not length:
            return torch.empty(0, dtype=torch.int64)
        if self.prior == "unigram" or not self.auxiliary:
            chances = self.log_unigram.exp()
            return torch.multinomial(chances, length, replacement=True, generator=generator)
        stream, starts = self._tokens
        return stream[self._start(starts, len(stream) - length, generator, held_out) :][:length]

    def _start(self, starts: Tensor, last: int, generator: torch.Generator, held_out: bool) -> int:
        """Return where a window begins: where a text does, or anywhere, half of the time each."""
        if last < HELD_OUT:
            raise UnsupportedObservation(f"the auxiliary text in {self.auxiliary!r} is too short")
        coin, share = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        edge = last - last // HELD_OUT  # what comes after is held out
        low, high = (edge, last) if held_out else (0, edge)
        some = starts[(starts >= low) & (starts < high)] if coin < 0.5 else starts[:0]
        return int(some[int(share * len(some))]) if len(some) else low + int(share * (high - low))


@functools.lru_cache(maxsize=2)
def _digest(path: str) -> str:
    return hashlib.sha256(read_text(Path(path), most=MOST).encode()).hexdigest()


def _stream(path: str, model: ModelAdapter) -> tuple[Tensor, Tensor]:
    """Return the file's tokens, one text after the other, and where each text begins."""
    return _encoded(path, model.spec, model)


@functools.lru_cache(maxsize=2)
def _encoded(path: str, spec: ModelSpec, model: ModelAdapter) -> tuple[Tensor, Tensor]:
    lines = [line.strip() for line in read_text(Path(path), most=MOST).splitlines()]
    texts = [line for line in lines if line]
    if not texts:
        raise UnsupportedObservation(f"the auxiliary file {path!r} holds no text")
    rows = model.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    lengths = torch.tensor([0, *map(len, rows)])
    return torch.tensor([token for row in rows for token in row]), lengths.cumsum(0)[:-1]


def as_texts(rows: Tensor) -> tuple[Tokens, ...]:
    """Return texts (B, T) as sequences of their own lengths."""
    return tuple(tuple(token for token in row if token != NONE) for row in rows.tolist())
