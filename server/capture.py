"""A tap's hook that writes what it sees to disk: evidence that can be attacked again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.captures import BROADCAST, place, write_capture
from fedsim.wire import read_broadcast, read_update
from server.tap import Exchange


class Capture:
    """Writes every exchange of a round under ``root``, one directory a (round, client).

    Args:
        root: where to write.
        model: what the clients train, as the fields of ``fedsim.models.ModelSpec``, e.g.
            ``{"name": "gpt2", "task": "classification"}``. It is public, and an attack needs it;
            left out, it is given on the command line of ``fedsim attack``.
    """

    def __init__(self, root: str | Path, *, model: Mapping[str, Any] | None = None) -> None:
        self.root = Path(root)
        self.model = dict(model or {})
        self._clients: dict[int, int] = {}  # node id -> client, in order of first sight

    def __call__(self, exchanges: Sequence[Exchange]) -> None:
        """Write the exchanges that a client answered."""
        written: dict[int, Path] = {}  # id of what was sent -> its file
        for exchange in exchanges:
            client = self._client(exchange)
            if exchange.received is None:
                continue
            broadcast = read_broadcast(exchange.sent, exchange.round)
            directory = place(self.root, exchange.round, client)
            write_capture(
                directory,
                client,
                broadcast,
                read_update(exchange.received, broadcast),
                self.model,
                same_broadcast=written.get(id(exchange.sent)),
                cohort=exchange.cohort,
            )
            written[id(exchange.sent)] = directory / BROADCAST

    def _client(self, exchange: Exchange) -> int:
        if exchange.client is not None:
            return exchange.client
        return self._clients.setdefault(exchange.node_id, len(self._clients))
