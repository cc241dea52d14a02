"""reconstructions.jsonl: each time an attack was run, and what it said."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fedsim.errors import MalformedFile
from fedsim.records import Client, FileRecord, Round, Seconds, TokenIds

Role = Literal["attack", "positive"]


class AttackRecord(FileRecord):
    """One attack, run on one client's update or, as its positive control, on one of its own."""

    attack: str
    role: Role
    round: Round
    client: Client
    clients: list[Client] = []  # several: their sum was attacked
    settings: dict[str, Any] = {}
    knowledge: dict[str, Any] = {}  # what it was granted
    seconds: Seconds
    sequences: list[TokenIds]  # token ids, special ones included; none: nothing was found
    texts: list[str]  # the same, decoded without the special ones
    diagnostics: dict[str, Any] = {}
    error: str | None = None  # why it could not run
    truth: list[TokenIds] = []  # of a positive control: the attacker's own sequences


def once(path: Path, records: Sequence[AttackRecord]) -> list[AttackRecord]:
    """Return ``records``, the lines of ``path``, each of an update or control of its own.

    Raises:
        MalformedFile: two lines are of the same: what was read would count twice.
    """
    places = set()
    for number, record in enumerate(records, start=1):
        place = record.attack, record.role, record.round, record.client
        if place in places:
            raise MalformedFile(
                f"{path}, line {number}: {record.attack} in round {record.round} of client "
                f"{record.client} is there twice; was the run resumed twice at once?"
            )
        places.add(place)
    return list(records)
