"""rounds.jsonl: what each round came to; round 0 is the model before any training."""

from fedsim.lab.store.records import FileRecord


class Unanswered(FileRecord):
    """A client that was asked in a round and failed."""

    client: int | None  # None: nobody can say which it was
    error: str


class RoundRecord(FileRecord):
    """One round."""

    round: int
    utility: float | None  # the task's own metric; None: not measured
    measures: dict[str, float] | None  # by metric, that one among them
    checksum: str  # of the weights after it
    seconds: float
    clients: list[int] = []  # who answered, in that order
    failures: list[Unanswered] = []
