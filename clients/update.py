"""A client's round: it draws its batch, trains, protects the update and notes what was measured."""

import math
import time
import traceback
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clients.holdings import ClientSettings, Side, client_side, drawn, expected_size
from defenses import Defense
from defenses.base import Here, Private, norm
from defenses.encoding import plain
from fedsim.errors import ClientFailure, DefenseFailed
from fedsim.finite import all_finite
from fedsim.local import LocalTraining
from fedsim.messages import Broadcast, Update
from fedsim.rng import global_stream, stream
from fedsim.threads import threads
from fedsim.training import Examples, Training, TrainingSettings
from fedsim.types import Parameters
from fedsim.vault.writer import VaultWriter


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
    settings = settings.bound(side.examples, broadcast)
    training = TrainingSettings.from_config(broadcast.config)
    defenses = _begin(settings, client, broadcast.round, training, len(side.examples))
    try:
        return _answer(settings, client, broadcast, side, defenses)
    except BaseException as error:
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
    started, vault = time.perf_counter(), VaultWriter(settings.vault, settings.seal)
    training = TrainingSettings.from_config(broadcast.config)
    batch = _trained_on(drawn(settings, client, broadcast.round, defenses, side.examples), training)
    vault.note(broadcast.round, client, batch.sequences, batch.labels)
    name = ("client", client, "round", broadcast.round)
    local: Training = LocalTraining(side.adapter, training)
    for defense in defenses:
        local = defense.wrap(local)
    with threads(settings.threads), global_stream(settings.root, *name, "dropout"):
        generator = stream(settings.root, *name, "training")
        raw, loss = local(broadcast.parameters, batch, generator)
        if not math.isfinite(loss) or not all_finite(raw.values()):
            failure = ClientFailure("training diverged; lower training.learning_rate")
            failure.add_note(f"at loss {loss}")
            raise failure
        streams = [stream(settings.root, *name, "defense", at) for at in range(len(defenses))]
        tensors, audits = _protect(defenses, raw, streams)
    sent = _cast(tensors, training.wire_dtype)
    encoding = plain(sent)
    metrics: Mapping[str, float] = {"train_loss": loss}
    for defense in defenses:
        encoding, metrics = defense.encoded(sent, encoding), defense.report(metrics)
    settings.memory.note(client, broadcast.round, [defense.keep() for defense in defenses])
    seconds = round(time.perf_counter() - started, 4)
    row = {"defenses": audits, "bytes": encoding.bytes, "seconds": seconds}
    row["bits_per_entry"] = 8 * encoding.bytes / encoding.entries
    vault.measured(broadcast.round, client, row)
    return Update(
        tensors=sent,
        kind="gradient" if training.algorithm == "fedsgd" else "delta",
        num_examples=_counted(training, expected_size(settings, len(side.examples))),
        metrics=dict(metrics),
    )


def _trained_on(batch: Examples, training: TrainingSettings) -> Examples:
    """Return what of a batch is trained on: less of it where steps end before an epoch does."""
    if batch.steps is not None:  # drawn for these steps
        return batch
    return batch.take(list(range(_counted(training, len(batch)))))


def _counted(training: TrainingSettings, examples: int) -> int:
    """Return how many of so many examples are in a step."""
    if training.algorithm == "fedsgd" or not training.max_steps:
        return examples
    return min(examples, training.max_steps * training.mini_batch_size)


def note_lost(
    settings: ClientSettings, client: int, broadcast: Broadcast, held: int, error: ClientFailure
) -> None:
    """Note that a client that holds ``held`` examples was lost in its round, wherever it was."""
    training = TrainingSettings.from_config(broadcast.config)
    if held:  # else it had not even begun
        defenses = _begin(settings, client, broadcast.round, training, held)
        _note_failure(settings, client, broadcast.round, defenses, error)


def told(settings: ClientSettings, client: int, round_: int, error: BaseException) -> ClientFailure:
    """Return what the server is told of ``error``: one line without a figure of the data.

    A ClientFailure's message is such a line; of others the kind is told alone, and the audit has
    the rest, also of what came before there was anything to audit.
    """
    if isinstance(error, ClientFailure):
        return ClientFailure(str(error))
    line = f"{type(error).__name__} on the client"
    try:
        VaultWriter(settings.vault, settings.seal).measured(round_, client, _words(error))
    except Exception:  # its disk may be what failed
        return ClientFailure(line)
    return ClientFailure(f"{line}; its audit/round={round_}/client={client}.json says more")


def _words(error: BaseException) -> dict[str, str]:
    if isinstance(error, DefenseFailed):
        return {"failed": str(error)}
    return {"error": "".join(traceback.format_exception(error))}


def _note_failure(
    settings: ClientSettings,
    client: int,
    round_: int,
    defenses: Sequence[Defense],
    error: BaseException,
) -> None:
    """Note why there is no update, for the lab alone; to tell the server that has a price, too."""
    VaultWriter(settings.vault, settings.seal).measured(round_, client, _words(error))
    before = settings.memory.before(client, round_, len(defenses))
    memories = [
        defense.keep() if isinstance(defense, Private) else old  # of others nothing was sent
        for defense, old in zip(defenses, before, strict=True)
    ]
    settings.memory.note(client, round_, memories)


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
                generator=stream(settings.root, *name, place, "inside"),
            )
        )
        for place, (defense, memory) in enumerate(zip(settings.defenses, memories, strict=True))
    ]


def _protect(
    defenses: Sequence[Defense], tensors: Parameters, streams: Sequence[torch.Generator]
) -> tuple[Parameters, list[dict[str, float]]]:
    """Return what to send, and what the audit of each defense found."""
    audits = []
    for defense, noise in zip(defenses, streams, strict=True):
        clean, tensors = tensors, dict(defense.protect(tensors, noise))
        audits.append(defense.audit(clean, tensors))
    return tensors, audits


def _cast(tensors: Parameters, wire_dtype: str) -> dict[str, Tensor]:
    """Return ``tensors`` as they travel.

    Raises:
        ClientFailure: they are not numbers, or not within the wire's range.
    """
    dtype = getattr(torch, wire_dtype)
    if not all_finite(tensors.values()):
        raise ClientFailure("the update is not finite after the defense")
    sent = {name: tensor.to("cpu", dtype) for name, tensor in tensors.items()}
    if all(tensor.dtype == dtype for tensor in tensors.values()):  # it travels as it is
        return sent
    if not all_finite(sent.values()):
        raise ClientFailure(f"the update is too large for training.wire_dtype {dtype}")
    if norm(tensors) > 0.0 and norm(sent) == 0.0:
        raise ClientFailure(f"the update is too small for training.wire_dtype {dtype}")
    return sent
