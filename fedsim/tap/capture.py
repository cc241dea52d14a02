"""A tap's hook that writes what it sees to disk: evidence that can be attacked again."""

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from fedsim.evidence import BROADCAST, NOTES, Exhibit, place, write
from fedsim.files import append_line
from fedsim.printing import printable
from fedsim.tap.exchange import Exchange, fault, last_line, same_arrays
from fedsim.tap.reading import is_protocol, read

logger = logging.getLogger("fedsim.tap")

MOST = 200  # notes


class Capture:
    """Writes every exchange of a round under ``root``, one directory a (round, client).

    As a hook it never raises: what cannot be read or written is said once, with its reason, in the
    log and in ``notes.jsonl`` under ``root``. Its method :meth:`write` is a hook that raises.

    Args:
        root: where to write.
        model: what the clients train, as the fields of ``fedsim.models.ModelSpec``, e.g.
            ``{"name": "gpt2", "task": "classification"}``. It is public, and an attack needs it;
            left out, it is given on the command line of ``fedsim attack``.
    """

    def __init__(self, root: str | Path, *, model: Mapping[str, Any] | None = None) -> None:
        self.root = Path(root).absolute()  # wherever the app goes meanwhile
        self.model = dict(model or {})
        self._clients: dict[int, int] = {}  # node id -> client, in order of first sight
        self._noted: set[str] = set()
        self._last: tuple[RecordDict, Path] | None = None  # the weights written last, and where
        self._lock = threading.RLock()

    def __call__(self, exchanges: Sequence[Exchange]) -> None:
        """Write the exchanges that a client answered, as far as it goes."""
        for exchange in exchanges:
            try:
                with self._lock:
                    self._write(exchange, self._client(exchange))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # panics of a library of Rust are no Exception
                self._note(f"it could not be captured: {fault(error)}", exchange)
        self._forget(exchanges)

    def write(self, exchanges: Sequence[Exchange]) -> None:
        """Write the exchanges that a client answered.

        Raises:
            RunFailed: they cannot be written.
        """
        with self._lock:
            for exchange in exchanges:
                self._write(exchange, self._client(exchange))
        self._forget(exchanges)

    def _write(self, exchange: Exchange, client: int) -> None:
        if exchange.received is None:
            if exchange.client is None:  # in an experiment of ours that is no news
                failure = last_line(exchange.error or "")
                self._note(f"a client failed: {failure}", exchange, log=False)
            return
        if is_protocol(exchange.sent):
            return
        seen = read(exchange.sent, exchange.received)
        for note in seen.notes:
            self._note(note, exchange)
        if not seen.update:
            return
        directory = place(self.root, exchange.round, client)
        exhibit = Exhibit(
            round=exchange.round,
            client=client,
            kind=seen.kind,
            broadcast=seen.broadcast,
            update=seen.update,
            num_examples=seen.num_examples,
            metrics=seen.metrics,
            config=seen.config,
            model=self.model,
            cohort=exchange.cohort,
            node=None if exchange.client is not None else exchange.node_id,
            wire=seen.wire,
        )
        write(directory, exhibit, same_broadcast=self._written(exchange.sent))
        self._last = exchange.sent, directory / BROADCAST

    def _written(self, sent: RecordDict) -> Path | None:
        """Return where the weights of ``sent`` were written, if they were the last."""
        if self._last is not None and same_arrays(sent, self._last[0]):
            return self._last[1]
        return None

    def _forget(self, exchanges: Sequence[Exchange]) -> None:
        """Let go of a round's weights; but where one comes alone, as many more have the same."""
        if len(exchanges) > 1:
            self._last = None

    def _client(self, exchange: Exchange) -> int:
        if exchange.client is not None:
            return exchange.client
        return self._clients.setdefault(exchange.node_id, len(self._clients))

    def _note(self, reason: str, exchange: Exchange, *, log: bool = True) -> None:
        """Say once what could not be read, and of whom first."""
        reason = printable(reason)
        with self._lock:
            if reason in self._noted or len(self._noted) >= MOST:
                return
            self._noted.add(reason)
            client = self._client(exchange)
        if log:  # else the grid has
            logger.warning("round %d, client %d: %s", exchange.round, client, reason)
        row = {"reason": reason, "round": exchange.round, "client": client}
        try:
            append_line(self.root / NOTES, row)
        except Exception as error:  # the disk is full: nobody is the better for a fault here
            logger.warning("%s", fault(error))
