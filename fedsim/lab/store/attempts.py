"""reconstructions.jsonl: each time an attack was run, and what it said."""

from typing import Any, Literal

from fedsim.lab.store.records import FileRecord

Role = Literal["attack", "positive"]


class AttackRecord(FileRecord):
    """One attack, run on one client's update or, as its positive control, on one of its own."""

    attack: str
    role: Role
    round: int
    client: int
    clients: list[int] = []  # several: their sum was attacked
    settings: dict[str, Any] = {}
    knowledge: dict[str, Any] = {}  # what it was granted
    seconds: float
    sequences: list[list[int]]  # token ids, special ones included; none: nothing was found
    texts: list[str]  # the same, decoded without the special ones
    diagnostics: dict[str, Any] = {}
    error: str | None = None  # why it could not run
    truth: list[list[int]] = []  # of a positive control: the attacker's own sequences
