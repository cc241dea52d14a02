"""What a reply must be before anything is made of it: a wrong one is its client's failure.

Flower's strategies average whatever has the right names, and raise in the middle of a round where
it has not. Here each reply is held against what was sent and against the others; one that does not
fit goes on as an error, about which ``on_failure`` decides as about any other.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from typing_extensions import override

from fedsim.errors import MalformedMessage
from fedsim.flower import stamp
from fedsim.messages import UpdateKind
from fedsim.tap import GridProxy
from fedsim.tap.keys import EXAMPLES, SUM
from fedsim.wire import only_arrays, update_kind

WRONG = 2  # Flower's code for an exception in a ClientApp
USUAL = {EXAMPLES, "train_loss"}  # what a client of ours tells beside its update, at most

Names = tuple[str, ...]


class CheckedGrid(GridProxy):
    """Hands on one reply to each training message, a wrong one as an error that says why.

    Args:
        inner: the grid of the clients.
        kind: what all clients send; None: they may send weights, too.
    """

    def __init__(self, inner: Grid, kind: UpdateKind | None) -> None:
        super().__init__(inner)
        self.kind = kind

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)
        if not messages or not messages[0].metadata.message_type.startswith("train"):
            return self.inner.send_and_receive(messages, timeout=timeout)
        sent = [only_arrays(message.content, "broadcast") for message in messages]
        answers: dict[str, Message] = {}
        for reply in self.inner.send_and_receive(messages, timeout=timeout):
            answers.setdefault(reply.metadata.reply_to_message_id, reply)
        usual = usual_metrics([r.content for r in answers.values() if not r.has_error()])
        return [
            self._checked(answers[message.metadata.message_id], message, arrays, usual)
            for message, arrays in zip(messages, sent, strict=True)
            if message.metadata.message_id in answers
        ]

    def _checked(
        self, reply: Message, message: Message, sent: ArrayRecord, usual: Names
    ) -> Message:
        if reply.has_error():
            return reply
        try:
            check_kind(reply.content, self.kind)
            check_arrays(only_arrays(reply.content, "reply"), sent)
            check_metrics(reply.content, usual)
        except MalformedMessage as error:
            why = str(error)
        except Exception as error:  # whatever it takes to read what a foreign client made
            why = f"{type(error).__name__}: {error}"
        else:
            return reply
        wrong = Message(Error(WRONG, f"wrong reply: {why}"), reply_to=message)
        stamp(wrong, reply.metadata.message_id)
        return wrong


def check_kind(content: RecordDict, wanted: UpdateKind | None) -> None:
    """Raise MalformedMessage when a reply is not of the kind that all clients send."""
    if SUM in content:
        raise MalformedMessage("it says that it is a sum, which a client's is not")
    kind = update_kind(content)
    if wanted is not None and kind != wanted:
        raise MalformedMessage(f"its kind must be {wanted}, got {kind or 'none'}")


def check_arrays(arrays: ArrayRecord, sent: ArrayRecord) -> None:
    """Raise MalformedMessage when arrays are not what was sent in name, shape and kind, finite."""
    for what, names in (("lacks", set(sent) - set(arrays)), ("adds", set(arrays) - set(sent))):
        if names:
            raise MalformedMessage(f"it {what} the arrays {sorted(names)[:3]}")
    for name, array in arrays.items():
        check_array(name, array, sent[name])


def check_array(name: str, array: Array, sent: Array) -> None:
    """Raise MalformedMessage when one array is not like that which was sent, or not finite."""
    values, wanted = array.numpy(), np.dtype(sent.dtype)
    if values.shape != sent.shape:
        raise MalformedMessage(f"its {name!r} must have shape {sent.shape}, got {values.shape}")
    if values.dtype.kind != wanted.kind:
        raise MalformedMessage(f"its {name!r} must be like {wanted}, got {values.dtype}")
    if not np.isfinite(values).all():
        raise MalformedMessage(f"its {name!r} is not finite")


def check_metrics(content: RecordDict, usual: Names) -> None:
    """Raise MalformedMessage when metrics are not the usual ones, or not numbers."""
    names = _names(content)
    if len(content.metric_records) > 1 or names != usual:
        raise MalformedMessage(f"its metrics must be {_shown(usual)}, got {_shown(names)}")
    (metrics,) = content.metric_records.values()
    examples = metrics[EXAMPLES]
    if not isinstance(examples, int) or examples < 1:
        raise MalformedMessage(f"its {EXAMPLES} must be an integer, 1 or more, got {examples!r}")
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise MalformedMessage(f"its metric {name!r} must be a finite number, got {value!r}")


def usual_metrics(replies: Sequence[RecordDict]) -> Names:
    """Return the names of the metrics that most replies have, each with its record's.

    Without a count of examples nothing can be weighed. Of as many those of a client of ours.
    """
    counts = Counter(_names(content) for content in replies)
    whole = {names: count for names, count in counts.items() if EXAMPLES in _bare(names)}
    if not whole:
        return (f"metrics.{EXAMPLES}",)
    return max(whole, key=lambda names: (whole[names], set(_bare(names)) <= USUAL, len(names)))


def _names(content: RecordDict) -> Names:
    records: dict[str, MetricRecord] = dict(content.metric_records.items())
    return tuple(sorted(f"{record}.{name}" for record, names in records.items() for name in names))


def _bare(names: Names) -> list[str]:
    return [name.partition(".")[2] for name in names]


def _shown(names: Names) -> str:
    return ", ".join(names) or "none"
