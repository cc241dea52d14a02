"""The inline engine: every client in this process."""

import itertools
import traceback
from collections.abc import Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from typing_extensions import override

from fedsim.flower import (
    empty_run,
    heed_telemetry_switch,
    rewrap,
    set_identity,
    stamp,
)
from fedsim.lab.engines.base import Resources
from fedsim.lab.environment import set_environment
from fedsim.tap.exchange import snapshot
from fedsim.tap.keys import PARTITION

FAILED = 2  # Flower's code for an exception in a ClientApp


class InlineGrid(Grid):
    """Runs every client in this process, one after the other, in the order of the messages."""

    def __init__(self, client_app: ClientApp, clients: int, run_id: int = 1) -> None:
        self._app = client_app
        self._run = empty_run(run_id)
        self._contexts: dict[int, Context] = {}  # by node id; a client's state survives the rounds
        for client in range(clients):
            node, where = 1000 + client, {PARTITION: client, "num-partitions": clients}
            self._contexts[node] = Context(run_id, node, dict(where), RecordDict(), {})
        self._serial = itertools.count(1)
        self._replies: dict[str, Message] = {}

    @override
    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    @override
    def run(self) -> Run:
        return self._run

    @override
    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    @override
    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    @override
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            ids.append(f"m{next(self._serial)}")
            stamp(message, ids[-1])
            reply = self._answer(message)
            stamp(reply, f"r{next(self._serial)}")
            self._replies[ids[-1]] = reply
        return ids

    def _answer(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return self._app(rewrap(snapshot(message.content), message), context)
        except KeyboardInterrupt:  # the user's
            raise
        except BaseException as error:  # a client's failure is an answer, not the server's end
            reason = "".join(traceback.format_exception(error))
            return Message(Error(FAILED, reason), reply_to=message)

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))


def run_inline(server: ServerApp, client: ClientApp, clients: int, resources: Resources) -> None:
    """Run both apps in this process."""
    set_environment()
    heed_telemetry_switch()
    set_identity()
    server(InlineGrid(client, clients), Context(1, 0, {}, RecordDict(), {}))
