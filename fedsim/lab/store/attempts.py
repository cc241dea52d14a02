"""reconstructions.jsonl: each time an attack was run, and what it said."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fedsim import limits
from fedsim.errors import MalformedFile
from fedsim.files import parse_json
from fedsim.records import Client, Count, FileRecord, Round, Seconds, TokenIds, checked_record
from fedsim.types import Reads

Role = Literal["attack", "positive"]


class Asked(FileRecord):
    """A candidate that an attack was asked about: what it is, which the attack was not told."""

    kind: Literal["member", "outsider", "twin", "other"]
    row: Count  # among the texts of that kind; of a twin, the member's that it is like


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
    reads: Reads = "texts"  # what the sequences are; of labels there are no texts
    dropped: int = Field(0, ge=0, le=limits.GUESS)  # sequences beyond limits.GUESSES, not kept
    diagnostics: dict[str, Any] = {}
    error: str | None = Field(None, min_length=1)  # why it could not run
    asked: list[Asked] = []  # what it was asked about, in the order of its answers
    scores: list[Annotated[float, Field(allow_inf_nan=False)]] = []  # of each: a member's are high
    members: list[bool] = []  # which it took for members
    truth: list[TokenIds] = []  # of a positive control: the attacker's own sequences


def readable(record: AttackRecord) -> AttackRecord:
    """Return ``record`` as it comes out of its line.

    Raises:
        ValueError: it does not: what was written could not be read again.
    """
    line = json.dumps(record.as_dict(), ensure_ascii=False).encode()
    return checked_record("the record", parse_json(line, "the record"), AttackRecord)


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
