"""A Grid that shows every training exchange to its hooks and changes none.

One line puts it into any Flower server, ``grid=TapGrid(grid, [Capture("captures/")])`` in its call
of ``strategy.start``. It follows the protocol and looks.
"""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsim.errors import ClientFailure
from fedsim.printing import printable
from fedsim.tap.exchange import Exchange, Hook, copies, fault, last_line, snapshot
from fedsim.tap.keys import summed_nodes
from fedsim.tap.proxy import GridProxy
from fedsim.tap.rounds import RoundCount

logger = logging.getLogger("fedsim.tap")


@dataclass(frozen=True)
class SentCopy:
    """A copy of one message to a client, made before anything can rewrite it."""

    round: int
    node_id: int
    content: RecordDict


Pushed = tuple[SentCopy, str]
"""What was sent, and the number it was sent under."""


class TapGrid(GridProxy):
    """Shows snapshots of each round's training exchanges to ``hooks``; the replies go on untouched.

    Args:
        inner: the grid of the app, or a harness around it.
        hooks: called in order for every call that brings replies, one thread at a time.
        on_failure: ``stop`` raises ClientFailure when a client fails; ``continue`` logs it and goes
            on with the others, as Flower does (which says so at level INFO only).
        prefix: the message types to look at.
        guarded: whatever goes wrong in looking, or in a hook, is logged once and the training goes
            on; False: it ends the training, as in an experiment that is for the sake of its hooks.
    """

    def __init__(
        self,
        inner: Grid,
        hooks: Iterable[Hook],
        *,
        on_failure: Literal["stop", "continue"] = "continue",
        prefix: str = "train",
        guarded: bool = True,
    ) -> None:
        super().__init__(inner)
        self.hooks = list(hooks)
        self.on_failure = on_failure
        self.prefix = prefix
        self.guarded = guarded
        self._rounds = RoundCount()
        self._pushed: dict[str, SentCopy] = {}  # by message id, for an app that pulls by itself
        self._faults: set[str] = set()
        self._lock = threading.RLock()  # the legacy API sends from a thread a client

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send ``messages``, and show them with their replies."""
        messages = list(messages)  # may be a generator, and is needed twice
        sent = list[tuple[Message, SentCopy]]()
        with self._looking():
            sent = self._sent(messages)
        replies = list(self.inner.send_and_receive(messages, timeout=timeout))
        pairs = [(copy, message.metadata.message_id) for message, copy in sent]
        self._show(pairs, replies)
        return replies

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send ``messages``, of which an app pulls the replies by itself."""
        messages = list(messages)
        sent = list[tuple[Message, SentCopy]]()
        with self._looking():
            sent = self._sent(messages)
        ids = list(self.inner.push_messages(messages))
        with self._looking():
            self._pushed.update({m.metadata.message_id: copy for m, copy in sent})
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, and show them."""
        replies = list(self.inner.pull_messages(message_ids))
        answered = [reply.metadata.reply_to_message_id for reply in replies]
        pairs = [(self._pushed.pop(id_), id_) for id_ in answered if id_ in self._pushed]
        self._show(pairs, replies)
        return replies

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Let nothing that goes wrong inside reach the app: say it once."""
        try:
            yield
        except BaseException as error:  # whatever a hook, or a library under it, comes up with
            if not self.guarded or isinstance(error, KeyboardInterrupt):
                raise
            said = fault(error)
            if said not in self._faults:
                self._faults.add(said)
                logger.warning("a fault in looking, the training goes on: %s", said)

    def _sent(self, messages: Sequence[Message]) -> list[tuple[Message, SentCopy]]:
        """Copy what is sent: Flower shares one record among messages and rewrites it next round."""
        training = [m for m in messages if m.metadata.message_type.startswith(self.prefix)]
        if not training:
            return []
        made: dict[int, RecordDict] = {}
        for message in training:
            if id(message.content) not in made:
                made[id(message.content)] = snapshot(message.content)
        contents = [made[id(message.content)] for message in training]
        with self._lock:
            rounds = self._rounds.of(training, contents)
        return [
            (message, SentCopy(round_, message.metadata.dst_node_id, content))
            for message, round_, content in zip(training, rounds, contents, strict=True)
        ]

    def _show(self, sent: Sequence[Pushed], replies: Sequence[Message]) -> None:
        """Show each message with its reply to every hook."""
        exchanges = list[Exchange]()
        with self._looking():
            exchanges = self._pair(sent, replies)
        if not exchanges:
            return
        self._report([exchange for exchange in exchanges if exchange.error is not None])
        with self._lock:
            for hook in self.hooks:
                with self._looking():
                    hook(copies(exchanges))

    def _pair(self, sent: Sequence[Pushed], replies: Sequence[Message]) -> list[Exchange]:
        """Join each message with its reply; a slow client has none, a dead one an error."""
        answers = {reply.metadata.reply_to_message_id: reply for reply in replies}
        sources = {reply.metadata.src_node_id: reply for reply in replies}
        partition = self.partition
        sums = [summed_nodes(reply.content) for reply in replies if not reply.has_error()]
        hidden = {node for nodes in sums for node in nodes}
        exchanges = []
        for copy, message_id in sent:
            # A grid that sends messages of its own leaves these without a number.
            reply = answers.get(message_id) if message_id else sources.get(copy.node_id)
            received, error, cohort = None, None, list[int]()
            if reply is None and copy.node_id in hidden:
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
                    round=copy.round,
                    node_id=copy.node_id,
                    client=partition.get(copy.node_id),
                    sent=copy.content,
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
