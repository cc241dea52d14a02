"""The networks from an update's numbers to tokens.

Source: Wu et al., UAI 2023, arXiv:2210.10880, sec. 4.2 and code (``PaperNetwork``): two hidden
        layers and one output layer that all places share. ``RowNetwork`` is ours: one network for
        all places, which sees the place's own numbers, its neighbours' and the whole's, and
        compares what it makes of them with the target's own token embeddings, so that what it must
        learn does not grow with the vocabulary.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from attacks.learned.features import Seen

Network = Literal["rows", "paper"]


class Decoder(nn.Module, ABC):
    """A network with B x T answers."""

    @abstractmethod
    def states(self, seen: Seen) -> Tensor:
        """Return an answer's vector for each text and place: (N, B, T, E)."""

    @abstractmethod
    def logits(self, states: Tensor, seen: Seen, words: Tensor | None) -> Tensor:
        """Return how likely each of ``words`` (C,) is, None: each token: (N, B, T, C)."""


class RowNetwork(Decoder):
    """A network of each place, whose head is tied to the embeddings of the target."""

    def __init__(
        self, shown: Seen, texts: int, width: int, words: Tensor, log_unigram: Tensor
    ) -> None:
        """Take sizes of ``shown``; ``words``: (V, E) the target's embeddings."""
        super().__init__()
        length, size = shown.rows.shape[1:]
        self.texts = texts
        self.place = nn.Parameter(0.1 * torch.randn(length, 64))
        self.first = nn.Linear(size, width)
        self.whole = nn.Linear(shown.whole.shape[1], 128)
        self.body = nn.Sequential(
            nn.Linear(4 * width + 128 + 64, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
            nn.GELU(),
            nn.Linear(width, texts * words.shape[1]),
        )
        self.mark = nn.Sequential(nn.Linear(3, 16), nn.GELU(), nn.Linear(16, 1))
        self.trust = nn.Parameter(torch.tensor(1.0))
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.rare = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("words", nn.functional.normalize(words, dim=1), persistent=False)
        self.register_buffer("log_unigram", log_unigram, persistent=False)
        self.words: Tensor
        self.log_unigram: Tensor

    @override
    def states(self, seen: Seen) -> Tensor:
        rows = nn.functional.gelu(self.first(seen.rows))  # (N, T, W)
        count, length = rows.shape[:2]
        shifted = nn.functional.pad(rows, (0, 0, 1, 1))
        whole = nn.functional.gelu(self.whole(seen.whole))[:, None].expand(-1, length, -1)
        given = [
            shifted[:, :-2], rows, shifted[:, 2:], rows.mean(1, keepdim=True).expand_as(rows),
            whole, self.place.expand(count, -1, -1),
        ]  # fmt: skip
        made = self.body(torch.cat(given, dim=2)).view(count, length, self.texts, -1)
        return nn.functional.normalize(made.transpose(1, 2), dim=-1)

    @override
    def logits(self, states: Tensor, seen: Seen, words: Tensor | None) -> Tensor:
        table, prior = self.words, self.log_unigram
        if words is not None:
            table, prior = table[words], prior[words]
        made = self.scale * (states @ table.mT) + self.rare * prior  # (N, B, T, C)
        if not seen.words.shape[1]:
            return made
        strong, alike = seen.marks.unbind(dim=-1)  # (N, T, K)
        told = self.mark(torch.stack([strong, alike, strong * alike], dim=-1))[..., 0]
        told = told + self.trust * alike
        where = seen.words if words is None else torch.searchsorted(words, seen.words)
        index = where[:, None, None, :].expand(*made.shape[:3], -1)
        return made.scatter_add(3, index, told[:, None].expand(-1, made.shape[1], -1, -1))


class PaperNetwork(Decoder):
    """Two hidden layers, and one output layer for all places."""

    def __init__(self, shown: Seen, texts: int, vocabulary: int) -> None:
        """Take sizes of ``shown``."""
        super().__init__()
        self.shape = (texts, shown.rows.shape[1])
        self.first = nn.Linear(shown.whole.shape[1], 600)
        self.second = nn.Linear(600, texts * self.shape[1] * 1000)
        self.head = nn.Linear(1000, vocabulary)

    @override
    def states(self, seen: Seen) -> Tensor:
        made: Tensor = self.second(self.first(seen.whole).relu()).relu()
        return made.view(len(made), *self.shape, 1000)

    @override
    def logits(self, states: Tensor, seen: Seen, words: Tensor | None) -> Tensor:
        if words is None:
            whole: Tensor = self.head(states)
            return whole
        return nn.functional.linear(states, self.head.weight[words], self.head.bias[words])
