"""The Flower client: it draws its batch, trains, protects the update and sends it."""

import functools
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from clients.data import Corpus, DataSettings, load_corpus, shards
from clients.memory import ClientMemory
from clients.training import LocalTraining, threads
from defenses import Defense
from defenses.base import Here, Private, Steps, norm
from defenses.encoding import plain
from fedsim.errors import BadInput, ClientFailure, DefenseFailed
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

    @property
    def memory(self) -> ClientMemory:
        """What the clients' defenses keep: beside the vault."""
        return ClientMemory(self.vault.parent / "memory")


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
    ids = adapter.tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,  # twice as fast where nobody asks
        return_token_type_ids=False,
    )["input_ids"]
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
            part["text"][:],  # a list at once; row by row it takes seconds
            part["label"][:] if "label" in part.column_names else [None] * len(part),
        )
        for part in parts
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
    """Return all that ``client`` of ``clients`` holds, as token ids.

    Raises:
        BadInput: that is nothing.
    """
    texts, labels = cached_shards(data, clients, seed)[client]
    examples = encode(cached_adapter(model), texts, labels, max_length)
    if not len(examples):
        raise BadInput(f"data.name: client {client} holds no text long enough to train on")
    return examples


def round_batch(
    settings: ClientSettings, client: int, round_: int, examples: Examples | None = None
) -> Examples:
    """Return what ``client`` trains on in ``round_``: drawn without replacement, by the seed.

    It is drawn from ``examples``; default: all that the client holds.
    """
    examples = client_examples(settings, client) if examples is None else examples
    generator = stream(settings.seed, "client", client, "batch", round_)
    order = torch.randperm(len(examples), generator=generator)
    return examples.take(order[: expected_size(settings, len(examples))].tolist())


def expected_size(settings: ClientSettings, held: int) -> int:
    """Return how many examples a client with ``held`` trains on, where it does not draw lots."""
    return min(settings.batch_size or held, held)


def _drawn(
    settings: ClientSettings,
    client: int,
    round_: int,
    defenses: Sequence[Defense],
    examples: Examples,
) -> Examples:
    """Return what ``client`` trains on, as the first of ``defenses`` that draws would have it."""
    for place, one in enumerate(defenses):
        steps = one.draw(stream(settings.seed, "client", client, "draw", round_, place))
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


def client_update(
    settings: ClientSettings, client: int, broadcast: Broadcast, side: Side | None = None
) -> Update:
    """Return what ``client`` answers to ``broadcast``; the vault knows first what it trained on.

    Args:
        settings: the run's.
        client: its number.
        broadcast: what the server sent.
        side: the workspace and the examples; default: as ``settings`` say.
    """
    side = side or client_side(settings, client)
    training = TrainingSettings.from_config(broadcast.config)
    defenses = _begin(settings, client, broadcast.round, training, len(side.examples))
    try:
        return _answer(settings, client, broadcast, side, defenses)
    except Exception as error:
        _note_failure(settings, client, broadcast.round, defenses, error)
        raise


def _answer(
    settings: ClientSettings,
    client: int,
    broadcast: Broadcast,
    side: Side,
    defenses: Sequence[Defense],
) -> Update:
    """Train, protect, and note what was measured and what the defenses keep."""
    started, vault = time.perf_counter(), VaultWriter(settings.vault)
    training = TrainingSettings.from_config(broadcast.config)
    batch = _drawn(settings, client, broadcast.round, defenses, side.examples)
    vault.note(broadcast.round, client, batch.sequences, batch.labels)
    name = ("client", client, "round", broadcast.round)
    local: Training = LocalTraining(side.adapter, training)
    for defense in defenses:
        local = defense.wrap(local)
    with threads(settings.threads), global_stream(settings.seed, *name, "dropout"):
        generator = stream(settings.seed, *name, "training")
        raw, loss = local(broadcast.parameters, batch, generator)
        if not math.isfinite(loss) or not _finite(raw):
            failure = ClientFailure("training diverged; lower training.learning_rate")
            failure.add_note(f"at loss {loss}")
            raise failure
        streams = [stream(settings.seed, *name, "defense", at) for at in range(len(defenses))]
        tensors, found = _protect(defenses, raw, streams)
    sent = _cast(tensors, training.wire_dtype)
    encoding = plain(sent)
    metrics: Mapping[str, float] = {"train_loss": loss}
    for defense in defenses:
        encoding, metrics = defense.encoded(sent, encoding), defense.report(metrics)
    settings.memory.note(client, broadcast.round, [one.keep() for one in defenses])
    seconds = round(time.perf_counter() - started, 4)
    row = {"defenses": found, "bytes": encoding.bytes, "seconds": seconds}
    row["bits_per_entry"] = 8 * encoding.bytes / encoding.entries
    vault.measured(broadcast.round, client, row)
    return Update(
        tensors=sent,
        kind="gradient" if training.algorithm == "fedsgd" else "delta",
        num_examples=expected_size(settings, len(side.examples)),
        metrics=dict(metrics),
    )


def _note_failure(
    settings: ClientSettings,
    client: int,
    round_: int,
    defenses: Sequence[Defense],
    error: Exception,
) -> None:
    """Note why there is no update, for the lab alone; to tell the server that has a price, too."""
    why = {"error": "".join(traceback.format_exception(error))}
    if isinstance(error, DefenseFailed):
        why = {"failed": str(error)}
    VaultWriter(settings.vault).measured(round_, client, why)
    before = settings.memory.before(client, round_, len(defenses))
    memories = [
        one.keep() if isinstance(one, Private) else old  # of others nothing was sent
        for one, old in zip(defenses, before, strict=True)
    ]
    settings.memory.note(client, round_, memories)


def _told(error: Exception, round_: int, client: int) -> ClientFailure:
    """Return what the server is told of ``error``: one line without a figure of the data.

    A ClientFailure's message is such a line; of others the kind is told alone.
    """
    if isinstance(error, ClientFailure):
        return ClientFailure(str(error))
    where = f"audit/round={round_}/client={client}.json"
    return ClientFailure(f"{type(error).__name__} on the client; its {where} says more")


def _begin(
    settings: ClientSettings, client: int, round_: int, training: TrainingSettings, held: int
) -> list[Defense]:
    """Return the defenses at work in this client and round."""
    memories = settings.memory.before(client, round_, len(settings.defenses))
    name = ("client", client, "round", round_, "defense")
    return [
        defense.begin(
            Here(
                round=round_,
                held=held,
                expected=expected_size(settings, held),
                training=training,
                memory=memory,
                generator=stream(settings.seed, *name, place, "inside"),
            )
        )
        for place, (defense, memory) in enumerate(zip(settings.defenses, memories, strict=True))
    ]


def _protect(
    defenses: Sequence[Defense], tensors: Parameters, streams: Sequence[torch.Generator]
) -> tuple[Parameters, list[dict[str, float]]]:
    """Return what to send, and what the audit of each defense found."""
    found = []
    for defense, noise in zip(defenses, streams, strict=True):
        clean, tensors = tensors, dict(defense.protect(tensors, noise))
        found.append(defense.audit(clean, tensors))
    return tensors, found


def _cast(tensors: Parameters, wire_dtype: str) -> dict[str, Tensor]:
    """Return ``tensors`` as they travel.

    Raises:
        ClientFailure: they are not numbers, or not within the wire's range.
    """
    dtype = getattr(torch, wire_dtype)
    sent = {name: tensor.to("cpu", dtype) for name, tensor in tensors.items()}
    if not _finite(tensors):
        raise ClientFailure("the update is not finite after the defense")
    if not _finite(sent):
        raise ClientFailure(f"the update is too large for training.wire_dtype {dtype}")
    if norm(tensors) > 0.0 and norm(sent) == 0.0:
        raise ClientFailure(f"the update is too small for training.wire_dtype {dtype}")
    return sent


def _finite(tensors: Parameters) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def build_client_app(
    settings: ClientSettings, side: Callable[[ClientSettings, int], Side] = client_side
) -> ClientApp:
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
        client = _client(context)
        try:
            update = client_update(settings, client, broadcast, side(settings, client))
        except Exception as error:
            raise _told(error, round_, client) from None
        return Message(update_content(update), reply_to=message)

    return app


def _client(context: Context) -> int:
    return int(context.node_config[PARTITION])
