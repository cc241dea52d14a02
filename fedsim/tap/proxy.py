"""A grid around a grid."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

if TYPE_CHECKING:  # private symbols of Flower
    from flwr.supercore.run import Run


class GridProxy(Grid):
    """A Grid that hands everything to the one inside it; the base of those that do more."""

    def __init__(self, inner: Grid) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        """Return what only the grid inside has."""
        if name == "inner":  # not there yet, while a copy is made
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def partition(self) -> dict[int, int]:
        """Which client each node is, where the grid inside knows."""
        known = getattr(self.inner, "partition", {})
        return known if isinstance(known, dict) else {}  # another grid may mean something else

    def set_run(self, run: "Run") -> None:
        """Hand it on."""
        self.inner.set_run(run)

    @property
    def run(self) -> "Run":
        """The run of the grid inside."""
        return self.inner.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Hand it on."""
        return self.inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Hand it on."""
        return self.inner.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        """Hand it on."""
        return self.inner.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand it on."""
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand it on."""
        return self.inner.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Hand it on."""
        return self.inner.send_and_receive(messages, timeout=timeout)
