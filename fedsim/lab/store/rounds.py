"""rounds.jsonl: what each round came to; round 0 is the model before any training."""

from collections.abc import Sequence
from pathlib import Path

from fedsim.errors import MalformedFile
from fedsim.records import Client, FileRecord, Round, Seconds


class Unanswered(FileRecord):
    """A client that was asked in a round and failed."""

    client: Client | None  # None: nobody can say which it was
    error: str


class RoundRecord(FileRecord):
    """One round."""

    round: Round
    utility: float | None  # the task's own metric; None: not measured
    measures: dict[str, float] | None  # by metric, that one among them
    checksum: str  # of the weights after it
    seconds: Seconds
    clients: list[Client] = []  # who answered, in that order
    failures: list[Unanswered] = []
    stayed: bool = False  # True: of what came no aggregate was made, and the weights are as before


def in_order(path: Path, records: Sequence[RoundRecord]) -> list[RoundRecord]:
    """Return ``records``, the lines of ``path``, which begin with round 0 and leave none out.

    Raises:
        MalformedFile: they do not, or do not measure the same.
    """
    measured = {frozenset(record.measures) for record in records if record.measures is not None}
    for number, record in enumerate(records):
        if record.round != number:
            raise MalformedFile(
                f"{path}, line {number + 1}: wanted round {number}, got {record.round}"
            )
    if len(measured) > 1:
        raise MalformedFile(f"{path}: wanted the same measures in every round")
    return list(records)
