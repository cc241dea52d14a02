"""What the records of results have in common: whose update they are about, and that they fit."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from fedsim.errors import MalformedFile

Client = int | str | None


class OfClients(Protocol):
    """What is about one client's update, or about the sum of several."""

    @property
    def client(self) -> Client:
        """The client; the first of several."""

    @property
    def clients(self) -> Sequence[Client]:
        """The clients whose sum it is; none: ``client`` alone."""


class OfAttack(OfClients, Protocol):
    """What is about one attack on one update."""

    @property
    def attack(self) -> str:
        """Its name."""

    @property
    def round(self) -> int:
        """Of the update."""


def clients_of(record: OfClients) -> list[Client]:
    """Return the clients whose update a record is about; several: their sum."""
    return list(record.clients or [record.client])


def whose(record: OfClients) -> Client:
    """Return the client whose update it is, or ``sum of 0, 1, 2``."""
    clients = clients_of(record)
    return clients[0] if len(clients) == 1 else f"sum of {', '.join(map(str, clients))}"


def check_fit(
    path: Path, records: Sequence[OfAttack], wanted: Iterable[OfAttack], count: int
) -> None:
    """Check that the lines of ``path`` are about the ``count`` updates of summary.json, ``wanted``.

    Raises:
        MalformedFile: they are not.
    """
    what = ""
    if len(records) != count:  # whatever a summary says, no list is made of so many
        what = f"{path.name} has {len(records)} lines, and summary.json speaks of {count}"
    else:
        for line, pair in enumerate(zip(records, wanted, strict=True), start=1):
            ours, theirs = ((one.attack, one.round, one.client) for one in pair)
            if ours != theirs:
                named = ("{} in round {} of client {}".format(*one) for one in (ours, theirs))
                what = "{}, line {} is {}, in summary.json it is {}".format(path.name, line, *named)
                break
    if what:
        raise MalformedFile(f"{path.parent}: its files do not fit together: {what}; run it again")
