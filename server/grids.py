"""Grids around grids: who is there, and in which order."""

import time
from collections.abc import Iterable

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from typing_extensions import override

from fedsim.errors import ClientFailure
from fedsim.tap import GridProxy
from fedsim.wire import read_partition


class PartitionedGrid(GridProxy):
    """Waits for every client, asks each once for its partition, and lists them in that order.

    Node ids are random in every run, and clients register while the server already runs: without
    this, neither who takes part nor the order of a float sum would be fixed by the seed.
    """

    def __init__(self, inner: Grid, expected: int, *, wait: float = 120.0) -> None:
        super().__init__(inner)
        self.expected = expected
        self.wait = wait  # seconds
        self._partition: dict[int, int] = {}  # client, by node id

    @override
    def get_node_ids(self) -> Iterable[int]:
        if not self._partition:
            self._partition = self._ask(self._connected())
        return sorted(self._partition, key=self._partition.__getitem__)

    @property
    @override
    def partition(self) -> dict[int, int]:
        return self._partition

    def _connected(self) -> list[int]:
        end = time.monotonic() + self.wait
        while len(ids := list(self.inner.get_node_ids())) < self.expected:
            if time.monotonic() > end:
                raise ClientFailure(
                    f"{len(ids)} of {self.expected} clients connected after {self.wait:.0f} s"
                )
            time.sleep(0.05)
        return ids

    def _ask(self, ids: list[int]) -> dict[int, int]:
        queries = [Message(RecordDict(), node, MessageType.QUERY) for node in ids]
        replies = list(self.inner.send_and_receive(queries, timeout=600))
        errors = [reply.error.reason for reply in replies if reply.has_error()]
        if errors or len(replies) < self.expected:
            told = len(replies) - len(errors)
            raise ClientFailure(
                f"{told} of {self.expected} clients told their partition; errors: {errors}"
            )
        partition = {reply.metadata.src_node_id: read_partition(reply.content) for reply in replies}
        if sorted(partition.values()) != list(range(self.expected)):
            raise ClientFailure(
                f"clients must hold the partitions 0 to {self.expected - 1}, one each, "
                f"got {sorted(partition.values())}"
            )
        return partition


class Only(GridProxy):
    """Shows the strategy the chosen nodes alone."""

    def __init__(self, inner: Grid, ids: list[int]) -> None:
        super().__init__(inner)
        self.ids = ids

    @override
    def get_node_ids(self) -> Iterable[int]:
        return list(self.ids)
