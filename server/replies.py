"""What a reply must be before anything is made of it: a wrong one is its client's failure.

Flower's strategies average whatever has the right names, and raise in the middle of a round where
it has not. Here each reply is held against what was sent and against the others; one that does not
fit goes on as an error, about which ``on_failure`` decides as about any other.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from typing_extensions import override

from fedsim import limits
from fedsim.errors import MalformedMessage, shown
from fedsim.flower import stamp
from fedsim.messages import UpdateKind
from fedsim.tap import GridProxy
from fedsim.tap.arrays import view
from fedsim.tap.keys import CONFIG, EXAMPLES, SUM
from fedsim.wire import only_arrays, update_kind
from server.rates import told
from server.steps import moved, step_of

WRONG = 2  # Flower's code for an exception in a ClientApp
LOSS = "train_loss"
USUAL = {EXAMPLES, LOSS}  # what a client of ours tells beside its update, at most
FLOATS = tuple(map(np.dtype, ("float16", "float32", "float64")))  # in this machine's byte order
MOST, LONGEST = 100, 200  # of metrics, and letters of a name: a capture has them all

Names = tuple[str, ...]


class CheckedGrid(GridProxy):
    """Hands on one reply to each training message, a wrong one as an error that says why.

    Args:
        inner: the grid of the clients.
        kind: what all clients send; None: they may send weights, too.
        learning_rate: of the step along a gradient, where the config that was sent has none.
    """

    def __init__(self, inner: Grid, kind: UpdateKind | None, learning_rate: float) -> None:
        super().__init__(inner)
        self.kind = kind
        self.learning_rate = learning_rate

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

    def _rate(self, message: Message) -> float:
        config = message.content.config_records.get(CONFIG, ConfigRecord())
        return told(config, self.learning_rate)

    def _checked(
        self, reply: Message, message: Message, sent: ArrayRecord, usual: Names
    ) -> Message:
        if reply.has_error():
            return reply
        try:
            kind = check_kind(reply.content, self.kind)
            step = -1.0 if kind is None else step_of(kind, self._rate(message))
            check_arrays(only_arrays(reply.content, "reply"), sent, step)
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


def check_kind(content: RecordDict, wanted: UpdateKind | None) -> UpdateKind | None:
    """Return a reply's kind, None of weights.

    Raises:
        MalformedMessage: it is not what all clients send.
    """
    if SUM in content:
        raise MalformedMessage("it says that it is a sum, which a client's is not")
    kind = update_kind(content)
    if wanted is not None and kind != wanted:
        raise MalformedMessage(f"its kind must be {wanted}, got {kind or 'none'}")
    return kind


def check_arrays(arrays: ArrayRecord, sent: ArrayRecord, step: float) -> None:
    """Raise MalformedMessage when arrays are not what was sent in name, shape and kind, finite.

    Nor may what was sent be infinite after ``step`` times them: of weights the difference, -1.
    """
    for what, names in (("lacks", set(sent) - set(arrays)), ("adds", set(arrays) - set(sent))):
        if names:
            raise MalformedMessage(f"it {what} the arrays {shown(sorted(names)[:3])}")
    for name, array in arrays.items():
        check_array(name, array, sent[name], step)


def check_array(name: str, array: Array, sent: Array, step: float) -> None:
    """Raise MalformedMessage when one array is not like that which was sent, or too large."""
    values, wanted = view(array), np.dtype(sent.dtype)
    if values.shape != sent.shape:
        raise MalformedMessage(f"its {name!r} must have shape {sent.shape}, got {values.shape}")
    floats = wanted.kind == "f"
    if values.dtype not in (FLOATS if floats else (wanted,)) or not values.dtype.isnative:
        allowed = ", ".join(map(str, FLOATS)) if floats else wanted
        raise MalformedMessage(
            f"its {name!r} must be like {wanted} (allowed: {allowed}), got {values.dtype}"
        )
    if not floats:
        return
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))  # NaN stays NaN
    if not math.isfinite(largest):
        raise MalformedMessage(f"its {name!r} is not finite")
    most, eps = float(np.finfo(wanted).max), float(np.finfo(wanted).eps)
    if largest > most:
        raise MalformedMessage(f"its {name!r} is not finite as {wanted}: it has {largest:.3g}")
    # Less than half a unit in the last place of the largest number carries none beyond it.
    carries = abs(step) * largest > most * eps / 4
    if carries and not np.isfinite(moved(sent, values, step)).all():
        raise MalformedMessage(
            f"its {name!r} is so large, {largest:.3g}, that the weights are not finite after it; "
            "if all are, lower training.learning_rate"
        )


def check_metrics(content: RecordDict, usual: Names) -> None:
    """Raise MalformedMessage when metrics are not the usual ones, or not numbers."""
    names = _names(content)
    if len(content.metric_records) > 1 or names != usual:
        raise MalformedMessage(f"its metrics must be {_shown(usual)}, got {_shown(names)}")
    if len(names) > MOST or any(len(n) > LONGEST or not n.isprintable() for n in names):
        raise MalformedMessage(
            f"its metrics must be at most {MOST}, by names of at most {LONGEST} printable letters"
        )
    (metrics,) = content.metric_records.values()
    examples = metrics[EXAMPLES]
    if not isinstance(examples, int) or not 0 < examples <= limits.EXAMPLES:
        raise MalformedMessage(
            f"its {EXAMPLES} must be an integer from 1 to {limits.EXAMPLES:,}, "
            f"got {shown(examples)}"
        )
    for name, value in metrics.items():
        if isinstance(value, list) or not _is_kept(value):
            raise MalformedMessage(
                f"its metric {name!r} must be a finite number, got {shown(value)}"
            )
        if name == LOSS and value < 0:  # q-FedAvg raises it to a power
            raise MalformedMessage(f"its metric {name!r} must be 0 or more, got {value}")


def _is_kept(value: float) -> bool:
    """Return whether a capture can hold a number."""
    return math.isfinite(value) if isinstance(value, float) else abs(value) <= limits.INTEGER


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
    text = ", ".join(names) or "none"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
