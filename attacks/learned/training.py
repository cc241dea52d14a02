"""Trains a network on simulated clients, chunk after chunk, and asks it.

Nothing here hangs on a clock or on how often it was interrupted: each chunk of clients has a random
stream of its own, so that one who goes on from a checkpoint comes to the same weights.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks.learned.decoder import Decoder, Network, PaperNetwork, RowNetwork
from attacks.learned.features import Features, Hashed, Seen, find_features, scaled
from attacks.learned.matched import matched_loss, most
from attacks.learned.simulator import Simulator
from attacks.learned.texts import NONE, Source
from fedsim.rng import global_stream, stream
from fedsim.types import Parameters

CHUNK = 1024  # clients that are simulated before any is trained on
PROBES = 64  # clients that filters and scales are found on, at most
HELD_OUT = 128  # clients that the accuracy is measured on, at most
SHARE = 8  # and no more than one for so many that are trained on
FULL = 8192  # tokens of a vocabulary that the loss takes whole
SAMPLED = 4096  # else of those that a batch does not hold

logger = logging.getLogger("fedsim.attacks")


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """How a network is made and trained."""

    network: Network
    samples: int  # simulated clients
    passes: int  # over each
    batch_size: int  # clients
    learning_rate: float
    width: int
    features: int  # numbers of each place (rows)
    hashing: float  # bins over entries of the update (paper)


@dataclass(frozen=True)
class Data:
    """Simulated clients: what is seen of each, and the tokens it held."""

    seen: Seen
    texts: Tensor  # (N, B, T), NONE after a text's end

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Tensor) -> "Data":
        """Return the clients in ``rows``."""
        return Data(Seen(*(part[rows] for part in self.seen)), self.texts[rows])


@dataclass(frozen=True)
class State:
    """A training as far as it has come."""

    chunks: int
    network: dict[str, Any]
    optimizer: dict[str, Any]


@dataclass(frozen=True)
class Inverter:
    """A trained network, and how it is shown updates."""

    features: Features | Hashed
    network: Decoder
    samples: int
    accuracy: float  # of tokens, of held-out simulated clients

    @torch.no_grad()
    def __call__(self, update: Parameters) -> Tensor | None:
        """Return the likeliest tokens (B, T); None: the update is zero."""
        seen = self.features(update)
        if seen is None:
            return None
        guess: Tensor = best(self.network, seen)[0]
        return guess


def best(network: Decoder, seen: Seen) -> Tensor:
    """Return the likeliest token of each text and place: (N, B, T)."""
    return network.logits(network.states(seen), seen, None).argmax(dim=-1)


@dataclass(frozen=True)
class Trainer:
    """Trains for one protocol, weights and defense."""

    simulator: Simulator
    source: Source
    recipe: Curriculum
    seed: int

    def __call__(
        self, begun: State | None = None, keep: Callable[[State], None] = lambda _: None
    ) -> Inverter:
        """Return an inverter; go on from ``begun``, and ``keep`` the state after each chunk."""
        started = time.monotonic()
        features = self._features()
        held = self._data(features, self._few(HELD_OUT), "held-out")
        network, optimizer = self._network(held.seen)
        first = 0
        if begun is not None:
            network.load_state_dict(begun.network)
            optimizer.load_state_dict(begun.optimizer)
            first = begun.chunks
        sizes = _chunks(self.recipe.samples)
        accuracy = self.accuracy(network, held) if first == len(sizes) else 0.0
        for chunk in range(first, len(sizes)):
            data = self._data(features, sizes[chunk], "chunk", chunk)
            self._train(network, optimizer, data, chunk, sum(sizes[:chunk]))
            accuracy = self.accuracy(network, held)
            done = sum(sizes[: chunk + 1])
            logger.info(
                "lti: %d of %d simulated clients in %.0f s, %.1f %% of held-out tokens",
                done, self.recipe.samples, time.monotonic() - started, 100 * accuracy,
            )  # fmt: skip
            keep(State(chunk + 1, network.state_dict(), optimizer.state_dict()))
        return Inverter(features, network.eval(), self.recipe.samples, accuracy)

    def _few(self, most: int) -> int:
        return min(most, max(SHARE, self.recipe.samples // SHARE))

    def _features(self) -> Features | Hashed:
        simulator, generator = self.simulator, stream(self.seed, "probes")
        count, whole = self._few(PROBES), replace(simulator.shape, spread=0)
        texts = torch.stack([self.source.draw(whole, generator) for _ in range(count)])
        updates = list(simulator.updates(texts, generator))
        if self.recipe.network == "paper":
            entries = sum(tensor.numel() for tensor in updates[0].values())
            plain = Hashed(max(1, int(self.recipe.hashing * entries)), simulator.shape.longest)
            seen = [one.whole for update in updates if (one := plain(update)) is not None]
            scale = float(torch.cat(seen).square().mean().sqrt()) if seen else 1.0
            return Hashed(plain.bins, plain.length, scale or 1.0)
        parts = simulator.parts()
        noise = simulator.pipeline.noise / simulator.path / simulator.shape.texts
        found = find_features(
            simulator.probes(texts, generator), updates[0], simulator.shape.longest,
            noise, parts, simulator.model.first_position or 0, self.recipe.features,
        )  # fmt: skip
        return scaled(found, updates)

    def _network(self, shown: Seen) -> tuple[Decoder, torch.optim.Optimizer]:
        model, texts = self.simulator.model, self.simulator.shape.texts
        network: Decoder
        with global_stream(self.seed, "network"), torch.enable_grad():
            if self.recipe.network == "paper":
                network = PaperNetwork(shown, texts, model.vocabulary)
            else:
                words = self.simulator.words()
                prior = self.source.log_unigram.to(words.device)
                network = RowNetwork(shown, texts, self.recipe.width, words, prior)
            network = network.to(model.device)
        return network, torch.optim.Adam(network.parameters(), lr=self.recipe.learning_rate)

    def _draw(self, count: int, generator: torch.Generator, *, held_out: bool) -> Tensor:
        shape = self.simulator.shape
        drawn = [self.source.draw(shape, generator, held_out=held_out) for _ in range(count)]
        return torch.stack(drawn)

    @torch.no_grad()
    def _data(self, features: Features | Hashed, count: int, *name: str | int) -> Data:
        """Return ``count`` simulated clients."""
        generator = stream(self.seed, *name)
        texts = self._draw(count, generator, held_out=name[0] == "held-out")
        kept, seen = list[int](), list[Seen]()
        for row, update in enumerate(self.simulator.updates(texts, generator)):
            if (one := features(update)) is not None:
                kept.append(row)
                seen.append(one)
        whole = Seen(*(torch.cat(parts) for parts in zip(*seen, strict=True)))
        return Data(whole, texts[kept].to(whole.rows.device))

    def _train(
        self,
        network: Decoder,
        optimizer: torch.optim.Optimizer,
        data: Data,
        chunk: int,
        before: int,
    ) -> None:
        generator, recipe = stream(self.seed, "order", chunk), self.recipe
        network.train()
        for turn in range(recipe.passes):
            order = torch.randperm(len(data), generator=generator).to(data.texts.device)
            for place, rows in enumerate(order.split(recipe.batch_size)):
                seen = turn + place * recipe.batch_size / len(data)
                done = (before + len(data) * seen / recipe.passes) / recipe.samples
                for group in optimizer.param_groups:  # a cosine's half wave, down to nothing
                    group["lr"] = recipe.learning_rate * (1 + math.cos(math.pi * done)) / 2
                batch = data.take(rows)
                with torch.enable_grad():
                    words = self._words(batch, generator)
                    wanted = self._padded(batch.texts)
                    loss = matched_loss(network, batch.seen, wanted, words)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
        network.eval()

    def _words(self, batch: Data, generator: torch.Generator) -> Tensor | None:
        """Return the tokens that the loss of a batch is over, in order; None: all."""
        size = self.simulator.model.vocabulary
        if size <= FULL or self.recipe.network == "paper":
            return None
        drawn = torch.randint(size, (SAMPLED,), generator=generator).to(batch.texts.device)
        known = torch.cat([self._padded(batch.texts).flatten(), batch.seen.words.flatten(), drawn])
        words: Tensor = known.unique()
        return words

    def _padded(self, texts: Tensor) -> Tensor:
        return texts.masked_fill(texts == NONE, self.simulator.model.pad)

    @torch.no_grad()
    def accuracy(self, network: Decoder, data: Data) -> float:
        """Return the share of tokens that are right, in the best matching of texts."""
        right, total = 0.0, 0
        for rows in torch.arange(len(data)).split(32):
            batch = data.take(rows.to(data.texts.device))
            guess = best(network, batch.seen)  # (N, B, T)
            hits = (guess[:, :, None] == batch.texts[:, None]).float().sum(dim=3)  # (N, B, B)
            right += sum(most(one) for one in hits.cpu())
            total += int((batch.texts != NONE).sum())
        return right / max(1, total)


def _chunks(samples: int) -> Sequence[int]:
    whole, rest = divmod(samples, CHUNK)
    return [CHUNK] * whole + [rest] * (rest > 0)
