"""The Flower client: it draws its batch, trains, protects the update and sends it."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.data import Corpus, DataSettings, load_corpus, shards
from clients.training import LocalTraining, threads
from defenses import Defense
from fedsim.errors import BadInput, ClientFailure
from fedsim.messages import Broadcast, Parameters, Update
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.rng import global_stream, stream
from fedsim.training import Examples, Training, TrainingSettings
from fedsim.vault.writer import VaultWriter
from fedsim.wire import PARTITION, read_broadcast, sent_round, update_content, whoami_content


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """What every client of a run is started with; small, since Ray sends it with every message."""

    model: ModelSpec
    data: DataSettings
    max_length: int  # tokens, special ones included; the rest of a text is cut off
    clients: int
    batch_size: int  # examples a round; a client with fewer uses all of them
    seed: int
    vault: Path
    defenses: tuple[Defense, ...] = ()
    threads: int = 1  # torch's, for the same bits on every engine
    device: str = "cpu"


@functools.lru_cache(maxsize=1)
def cached_adapter(spec: ModelSpec) -> ModelAdapter:
    """Return this process's one workspace of the clients; it is theirs, and no attack's."""
    return load_adapter(spec)


def encode(
    adapter: ModelAdapter, texts: Sequence[str], labels: Sequence[int | None], max_length: int
) -> Examples:
    """Return ``texts`` as token ids; those too short to have a loss are left out.

    A next-token loss needs two tokens, a masked one one that is no special token.
    """
    if not texts:
        return Examples(sequences=(), labels=())
    ids = adapter.tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    around = len(adapter.prefix) + len(adapter.suffix)
    shortest = {"causal-lm": 2, "masked-lm": around + 1}.get(adapter.spec.task, 1)
    kept = [row for row, tokens in enumerate(ids) if len(tokens) >= shortest]
    return Examples(
        sequences=tuple(tuple(ids[row]) for row in kept),
        labels=tuple(labels[row] for row in kept),
    )


@functools.lru_cache(maxsize=1)
def cached_corpus(data: DataSettings, seed: int) -> Corpus:
    """Return this process's one corpus: the cells of a sweep read it once."""
    return load_corpus(data, seed)


@functools.lru_cache(maxsize=1)
def cached_shards(
    data: DataSettings, clients: int, seed: int
) -> list[tuple[list[str], list[int | None]]]:
    """Return each client's texts and labels.

    Raises:
        BadInput: the rows cannot be divided so that every client has one.
    """
    parts = shards(cached_corpus(data, seed).train, data, clients, seed)
    return [
        (
            list(part["text"]),
            list(part["label"]) if "label" in part.column_names else [None] * len(part),
        )
        for part in parts
    ]


def client_examples(settings: ClientSettings, client: int) -> Examples:
    """Return all that ``client`` holds, as token ids."""
    return _examples(
        settings.model, settings.data, settings.max_length, settings.clients, settings.seed, client
    )


@functools.lru_cache(maxsize=256)  # by what they depend on, which many cells of a sweep share
def _examples(
    model: ModelSpec, data: DataSettings, max_length: int, clients: int, seed: int, client: int
) -> Examples:
    texts, labels = cached_shards(data, clients, seed)[client]
    examples = encode(cached_adapter(model), texts, labels, max_length)
    if not len(examples):
        raise BadInput(f"data.name: client {client} holds no text long enough to train on")
    return examples


def round_batch(settings: ClientSettings, client: int, round_: int) -> Examples:
    """Return what ``client`` trains on in ``round_``: drawn without replacement, by the seed."""
    examples = client_examples(settings, client)
    wanted = settings.batch_size or len(examples)
    generator = stream(settings.seed, "client", client, "batch", round_)
    order = torch.randperm(len(examples), generator=generator)
    return examples.take(order[:wanted].tolist())


def client_update(settings: ClientSettings, client: int, broadcast: Broadcast) -> Update:
    """Return what ``client`` answers to ``broadcast``; the vault knows first what it trained on."""
    batch = round_batch(settings, client, broadcast.round)
    VaultWriter(settings.vault).note(broadcast.round, client, batch.sequences, batch.labels)
    name = ("client", client, "round", broadcast.round)
    training = TrainingSettings.from_config(broadcast.config)
    adapter = cached_adapter(settings.model).to(settings.device)
    local: Training = LocalTraining(adapter, training)
    for defense in settings.defenses:
        local = defense.wrap(local)
    generator = stream(settings.seed, *name, "training")
    with threads(settings.threads), global_stream(settings.seed, *name, "dropout"):
        tensors, loss = local(broadcast.parameters, batch, generator)
        for place, defense in enumerate(settings.defenses):
            noise = stream(settings.seed, *name, "defense", place)
            tensors = dict(defense.protect(tensors, noise))
    if not math.isfinite(loss) or not _finite(tensors):
        raise ClientFailure(f"training diverged at loss {loss}; lower training.learning_rate")
    dtype = getattr(torch, training.wire_dtype)
    sent = {name: tensor.to("cpu", dtype) for name, tensor in tensors.items()}
    if not _finite(sent):
        raise ClientFailure(f"the update is too large for training.wire_dtype {dtype}")
    return Update(
        tensors=sent,
        kind="gradient" if training.algorithm == "fedsgd" else "delta",
        num_examples=len(batch),
        metrics={"train_loss": loss},
    )


def _finite(tensors: Parameters) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def build_client_app(settings: ClientSettings) -> ClientApp:
    """Return the Flower app that every client of a run is an instance of."""
    app = ClientApp()

    @app.query()
    def whoami(message: Message, context: Context) -> Message:
        return Message(whoami_content(_client(context)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        round_ = sent_round(message.content)
        if round_ is None:
            raise BadInput("the server's message names no round")
        broadcast = read_broadcast(message.content, round_)
        update = client_update(settings, _client(context), broadcast)
        return Message(update_content(update), reply_to=message)

    return app


def _client(context: Context) -> int:
    return int(context.node_config[PARTITION])
