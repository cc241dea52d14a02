"""The tap: a Grid that shows every training exchange to its hooks and changes none.

One line puts it into any Flower server, ``grid=TapGrid(grid, [Capture("captures/")])`` in its call
of ``strategy.start``. It follows the protocol and looks.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from typing_extensions import override

from fedsim.errors import ClientFailure
from fedsim.flower import snapshot
from fedsim.printing import printable
from fedsim.wire import sent_round, summed_nodes
from server.grids import GridProxy

logger = logging.getLogger("fedsim.tap")


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


def last_line(error: str) -> str:
    """Return what a traceback ends in: the one line that says what went wrong."""
    return (error.strip().splitlines() or ["no reason given"])[-1]


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


Hook = Callable[[Sequence[Exchange]], None]


class TapGrid(GridProxy):
    """Shows snapshots of each round's training exchanges to ``hooks``; the replies go on untouched.

    Args:
        inner: the grid of the app, or a harness around it.
        hooks: called in order, once a round, in the server's thread.
        on_failure: ``stop`` raises ClientFailure when a client fails; ``continue`` logs it and goes
            on with the others, as Flower does (which says so at level INFO only).
        prefix: the message types to look at.
    """

    def __init__(
        self,
        inner: Grid,
        hooks: Iterable[Hook],
        *,
        on_failure: Literal["stop", "continue"] = "continue",
        prefix: str = "train",
    ) -> None:
        super().__init__(inner)
        self.hooks = list(hooks)
        self.on_failure = on_failure
        self.prefix = prefix
        self._count = 0

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)  # may be a generator, and is needed twice
        if not messages or not messages[0].metadata.message_type.startswith(self.prefix):
            return self.inner.send_and_receive(messages, timeout=timeout)
        self._count += 1
        sent = self._snapshots(messages)
        replies = list(self.inner.send_and_receive(messages, timeout=timeout))
        exchanges = self._pair(messages, sent, replies)
        self._report([exchange for exchange in exchanges if exchange.error is not None])
        for hook in self.hooks:
            hook(copies(exchanges))
        return replies

    def _snapshots(self, messages: list[Message]) -> list[RecordDict]:
        """Copy what is sent: Flower shares one record among messages and rewrites it next round."""
        copies: dict[int, RecordDict] = {}
        for message in messages:
            if id(message.content) not in copies:
                copies[id(message.content)] = snapshot(message.content)
        return [copies[id(message.content)] for message in messages]

    def _pair(
        self, messages: list[Message], sent: list[RecordDict], replies: list[Message]
    ) -> list[Exchange]:
        """Join each message with its reply; a slow client has none, a dead one an error."""
        answers = {reply.metadata.reply_to_message_id: reply for reply in replies}
        partition = self.partition
        sums = [summed_nodes(reply.content) for reply in replies if not reply.has_error()]
        hidden = {node for nodes in sums for node in nodes}
        exchanges = []
        for message, content in zip(messages, sent, strict=True):
            reply = answers.get(message.metadata.message_id)
            node = message.metadata.dst_node_id
            received, error, cohort = None, None, list[int]()
            if reply is None and node in hidden:
                continue  # its answer is in another's, and cannot be told from it
            if reply is None:
                error = "no reply before the timeout"
            elif reply.has_error():
                error = (reply.error.reason or "").strip() or "no reason given"
            else:
                received = reply.content  # hooks get copies, before anything can rewrite it
                cohort = [partition.get(node, node) for node in summed_nodes(received)]
            exchanges.append(
                Exchange(
                    round=sent_round(content) or self._count,
                    node_id=node,
                    client=partition.get(node),
                    sent=content,
                    received=received,
                    error=error,
                    cohort=tuple(cohort),
                )
            )
        return exchanges

    def _report(self, failed: list[Exchange]) -> None:
        lines = [
            f"round {each.round}, client {each.node_id if each.client is None else each.client}: "
            f"{last_line(each.error)}"
            for each in failed
            if each.error
        ]
        if failed and self.on_failure == "stop":
            raise ClientFailure("; ".join(lines))
        for line in lines:
            logger.warning("a client failed, the round goes on without it: %s", printable(line))
