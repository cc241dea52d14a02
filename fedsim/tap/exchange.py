"""What a tap shows: what was sent to one client, and what came back."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Array, ArrayRecord, RecordDict

from fedsim.errors import one_line
from fedsim.printing import printable


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What the server sent to one client, and what came back."""

    round: int
    node_id: int
    client: int | None  # the partition, where a harness knows it; a real server does not
    sent: RecordDict
    received: RecordDict | None  # None: the client failed or was late
    error: str | None = None
    cohort: tuple[int, ...] = ()  # under secure aggregation the clients whose sum was received


Hook = Callable[[Sequence[Exchange]], None]


def snapshot(content: RecordDict) -> RecordDict:
    """Return a copy that shares only the arrays' bytes, which cannot change, with ``content``."""
    return RecordDict({name: _copy(record) for name, record in content.items()})


def _copy(record: Any) -> Any:
    if not isinstance(record, ArrayRecord):
        return copy.deepcopy(record)  # metrics and configs may hold lists
    return ArrayRecord({k: Array(a.dtype, a.shape, a.stype, a.data) for k, a in record.items()})


def copies(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Return exchanges of a hook's own; what was one record for several clients stays one."""
    sent = {id(exchange.sent): snapshot(exchange.sent) for exchange in exchanges}
    return [
        replace(
            exchange,
            sent=sent[id(exchange.sent)],
            received=None if exchange.received is None else snapshot(exchange.received),
        )
        for exchange in exchanges
    ]


def last_line(error: str) -> str:
    """Return what a traceback ends in: the one line that says what went wrong."""
    return (error.strip().splitlines() or ["no reason given"])[-1]


def fault(error: BaseException) -> str:
    """Return what an error says in one line, even where its own words are a fault."""
    try:
        return printable(one_line(error))
    except Exception:
        return type(error).__name__


def same_arrays(one: RecordDict, other: RecordDict) -> bool:
    """Return whether two messages hold the same arrays; what shares its bytes is not compared."""
    return {name: _bytes(record) for name, record in one.array_records.items()} == {
        name: _bytes(record) for name, record in other.array_records.items()
    }


def _bytes(record: ArrayRecord) -> dict[str, tuple[str, str, bytes]]:
    return {name: (array.dtype, array.stype, array.data) for name, array in record.items()}
