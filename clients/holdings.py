"""What a client of a run holds, and what of it a round trains on."""

import functools
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from clients.chat import chat_ids, plain_ids
from clients.data import Corpus, DataSettings, load_corpus, shards
from clients.memory import ClientMemory
from defenses import Defense
from defenses.base import Steps
from fedsim.errors import BadInput, reading
from fedsim.messages import Broadcast
from fedsim.models import ModelAdapter, ModelSpec, load_adapter, takes_any_text
from fedsim.rng import Root, Secret, stream
from fedsim.training import Examples
from fedsim.vault.sealing import Seal


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """What every client of a run is started with; small, since Ray sends it with every message."""

    model: ModelSpec
    data: DataSettings
    max_length: int  # tokens, special ones included; the rest of a text is cut off
    clients: int
    batch_size: int  # examples a round; a client with fewer uses all of them
    seed: int  # of who holds what, and of what clients draw where no defense claims a guarantee
    vault: Path
    seal: Seal  # of the vault: a client writes what it cannot read
    secret: Secret | None = None  # of what clients draw, where one does
    defenses: tuple[Defense, ...] = ()
    threads: int = 1  # torch's, for the same bits on every engine
    device: str = "cpu"
    timeout: float = 0.0  # seconds a client may take in a round; 0: as long as it takes

    @property
    def root(self) -> Root:
        """What all of a client's own randomness comes from: lots, noise, dropout."""
        return self.seed if self.secret is None else self.secret

    def bound(self, examples: Examples, broadcast: Broadcast) -> "ClientSettings":
        """Return these with a secret of a round's own, where there is one.

        It hangs on all that goes into the round: two that train on other texts or from other
        weights draw other noise, which does not cancel where one is taken from the other.
        """
        if self.secret is None:
            return self
        told = hashlib.sha256(repr((examples.sequences, examples.labels)).encode())
        told.update(repr(sorted(broadcast.config.items())).encode())
        for name, tensor in sorted(broadcast.parameters.items()):
            told.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            told.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return replace(self, secret=self.secret.bound("round", told.hexdigest()))

    @property
    def memory(self) -> ClientMemory:
        """What the clients' defenses keep: beside the vault."""
        return ClientMemory.beside(self.vault)


@functools.lru_cache(maxsize=1)
def cached_adapter(spec: ModelSpec) -> ModelAdapter:
    """Return this process's one workspace of the clients; it is theirs, and no attack's."""
    return load_adapter(spec)


def encode(
    adapter: ModelAdapter,
    texts: Sequence[str],
    labels: Sequence[int | None],
    max_length: int,
    *,
    chat: bool = False,
) -> Examples:
    """Return ``texts`` as token ids; those that have no loss are left out.

    A next-token loss needs two tokens, a masked one one that can be masked: no special token.
    ``chat``: they are conversations.

    Raises:
        BadInput: the tokenizer cannot encode one.
    """
    if not texts:
        return Examples(sequences=(), labels=())
    name = adapter.spec.tokenizer or adapter.spec.name
    with reading(f"model.tokenizer: {name!r} cannot encode the texts", private=True):
        ids = (chat_ids if chat else plain_ids)(adapter.tokenizer, texts, max_length)
    shortest = 2 if adapter.spec.task == "causal-lm" else 1
    kept = [row for row, tokens in enumerate(ids) if len(tokens) >= shortest]
    if adapter.spec.response:
        kept = [row for row in kept if 0 < adapter.response_start(tuple(ids[row])) < len(ids[row])]
    if adapter.spec.task == "masked-lm":
        special = adapter.special
        kept = [row for row in kept if not special.issuperset(ids[row])]
    return Examples(
        sequences=tuple(tuple(ids[row]) for row in kept),
        labels=tuple(labels[row] for row in kept),
    )


FEW = 16  # texts to tokenize at a time where one will do
SEEDS = 4  # of a sweep, whose texts are kept: all its cells are checked before the first runs


@functools.lru_cache(maxsize=SEEDS)
def cached_corpus(data: DataSettings, seed: int) -> Corpus:
    """Return the corpus, which the cells of a sweep share."""
    return load_corpus(data, seed)


@functools.lru_cache(maxsize=SEEDS)
def cached_shards(
    data: DataSettings, clients: int, seed: int
) -> list[tuple[list[str], list[int | None]]]:
    """Return each client's texts and labels.

    Raises:
        BadInput: the rows cannot be divided so that every client has one.
    """
    train = cached_corpus(data, seed).train
    texts: list[str] = train["text"][:]  # at once; row by row it takes seconds
    labels = train["label"][:] if "label" in train.column_names else [None] * len(train)
    return [
        ([texts[row] for row in rows], [labels[row] for row in rows])
        for rows in shards(train, data, clients, seed)
    ]


def client_examples(settings: ClientSettings, client: int) -> Examples:
    """Return all that ``client`` holds, as token ids."""
    return cached_examples(
        settings.model, settings.data, settings.max_length, settings.clients, settings.seed, client
    )


@functools.lru_cache(maxsize=256)  # by what they depend on, which many cells of a sweep share
def cached_examples(
    model: ModelSpec, data: DataSettings, max_length: int, clients: int, seed: int, client: int
) -> Examples:
    """Return all that ``client`` of ``clients`` holds, as token ids."""
    texts, labels = cached_shards(data, clients, seed)[client]
    chat = cached_corpus(data, seed).chat
    return encode(cached_adapter(model), texts, labels, max_length, chat=chat)


@functools.lru_cache(maxsize=SEEDS)  # of more clients than there are texts kept for
def cached_counts(
    model: ModelSpec, data: DataSettings, max_length: int, clients: int, seed: int
) -> tuple[int, ...]:
    """Return how many examples each client holds."""
    return tuple(
        len(cached_examples(model, data, max_length, clients, seed, client))
        for client in range(clients)
    )


@functools.lru_cache(maxsize=SEEDS)
def check_examples(
    model: ModelSpec, data: DataSettings, max_length: int, clients: int, seed: int
) -> None:
    """Look for a text that each client can train on, no further than the first one.

    Where the tokenizer cannot encode just any text, or its chat template not just any conversation,
    all are looked at.

    Raises:
        BadInput: the rows cannot be divided so that every client has one, or none has a loss, or
            the tokenizer cannot encode one.
    """
    adapter = cached_adapter(model)
    corpus = cached_corpus(data, seed)
    any_ = takes_any_text(adapter.tokenizer) and not corpus.chat
    few = FEW if any_ else len(corpus.train)
    for client, (texts, labels) in enumerate(cached_shards(data, clients, seed)):
        parts = (slice(at, at + few) for at in range(0, len(texts), few))
        if not any(
            len(encode(adapter, texts[s], labels[s], max_length, chat=corpus.chat)) for s in parts
        ):
            raise BadInput(
                f"data.name: client {client} holds no text to train on: all are too short, or made "
                "of tokens that stand for none"
            )


@dataclass(frozen=True)
class Held(Collection[int]):
    """How many examples each of the clients can train on; nothing is read until one asks."""

    model: ModelSpec
    data: DataSettings
    max_length: int
    clients: int
    seed: int

    def __len__(self) -> int:
        return self.clients

    def __iter__(self) -> Iterator[int]:
        return iter(cached_counts(self.model, self.data, self.max_length, self.clients, self.seed))

    def __contains__(self, count: object) -> bool:
        return any(held == count for held in self)


def round_batch(
    settings: ClientSettings, client: int, round_: int, examples: Examples | None = None
) -> Examples:
    """Return what ``client`` trains on in ``round_``: drawn without replacement.

    It is drawn from ``examples``; default: all that the client holds.
    """
    examples = client_examples(settings, client) if examples is None else examples
    generator = stream(settings.root, "client", client, "batch", round_)
    order = torch.randperm(len(examples), generator=generator)
    return examples.take(order[: expected_size(settings, len(examples))].tolist())


def expected_size(settings: ClientSettings, held: int) -> int:
    """Return how many examples a client with ``held`` trains on, where it does not draw lots."""
    return min(settings.batch_size or held, held)


def drawn(
    settings: ClientSettings,
    client: int,
    round_: int,
    defenses: Sequence[Defense],
    examples: Examples,
) -> Examples:
    """Return what ``client`` trains on, as the first of ``defenses`` that draws would have it."""
    for place, defense in enumerate(defenses):
        steps = defense.draw(stream(settings.root, "client", client, "draw", round_, place))
        if steps is not None:
            return _of_steps(examples, steps)
    return round_batch(settings, client, round_, examples)


def _of_steps(examples: Examples, steps: Steps) -> Examples:
    """Return the examples that some step trains on, and the steps as rows of these."""
    rows = sorted({row for step in steps for row in step})
    place = {row: at for at, row in enumerate(rows)}
    taken = examples.take(rows)
    return replace(taken, steps=tuple(tuple(place[row] for row in step) for step in steps))


@dataclass(frozen=True)
class Side:
    """A client's side: the workspace it trains in, and all that it holds."""

    adapter: ModelAdapter
    examples: Examples


def client_side(settings: ClientSettings, client: int) -> Side:
    """Return the side of ``client`` as its settings say."""
    adapter = cached_adapter(settings.model).to(settings.device)
    return Side(adapter, client_examples(settings, client))
