"""Captures: what the server saw of one client in one round, on disk, to attack later or elsewhere.

``captures/round=R/client=C/`` holds ``broadcast.safetensors``, ``update.safetensors`` and
``observation.json``, which is written last: a capture without it was never finished. Reading one
needs neither Flower nor anything of the clients.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedsim import evidence, limits
from fedsim.errors import BadInput, MalformedFile
from fedsim.evidence import BROADCAST, NOTES, RECORD, SCHEMA, UPDATE
from fedsim.evidence import place as place
from fedsim.files import check_regular, read_json, read_lines
from fedsim.messages import Broadcast, Update
from fedsim.printing import printable
from fedsim.records import Client, FileRecord, Round, checked_record, checked_rows
from fedsim.types import Parameters, Scalar

NUMBER = "(0|[1-9][0-9]{0,17})"  # one way to write it: no two directories are of one client
SHORTEST = 2  # bytes of a float: with less torch has no arithmetic
PLACE = re.compile(rf"(?:^|/)round={NUMBER}/client={NUMBER}\Z")  # $ would take a line feed, too


@dataclass(frozen=True, order=True)
class CapturePath:
    """Where one capture lies."""

    round: int
    client: int
    directory: Path


@dataclass(frozen=True, kw_only=True)
class Captured:
    """One capture, read back."""

    round: int
    client: int
    broadcast: Broadcast
    update: Update
    model: Mapping[str, Any]  # the fields of a ModelSpec; empty where the app did not say
    cohort: tuple[int, ...] = ()  # the clients whose sum it is, ``client`` the first; none: its own
    node: int | None = None  # Flower's number of the client, in somebody else's project

    @property
    def clients(self) -> tuple[int, ...]:
        """The clients whose texts are in it."""
        return self.cohort or (self.client,)


def write_capture(
    directory: Path,
    client: int,
    broadcast: Broadcast,
    update: Update,
    model: Mapping[str, Any],
    same_broadcast: Path | None = None,
    cohort: Sequence[int] = (),
) -> None:
    """Write one capture of tensors, see :func:`fedsim.evidence.write`."""
    seen = evidence.Exhibit(
        round=broadcast.round,
        client=client,
        kind=update.kind,
        broadcast=_arrays(broadcast.parameters),
        update=_arrays(update.tensors),
        num_examples=update.num_examples,
        metrics=update.metrics,
        config=broadcast.config,
        model=model,
        cohort=cohort,
    )
    evidence.write(directory, seen, same_broadcast=same_broadcast)


def _arrays(tensors: Parameters) -> evidence.Arrays:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def find_captures(root: Path) -> list[CapturePath]:
    """Return the finished captures under ``root`` (a captures directory or a run), in order.

    Raises:
        BadInput: ``root`` is missing or holds none.
    """
    root = root.resolve()
    if not root.is_dir():
        raise BadInput(f"captures: {str(root)!r} is not a directory")
    captures = []
    for path in root.glob(f"**/{RECORD}"):
        match = PLACE.search(path.parent.as_posix())
        if match:
            captures.append(CapturePath(int(match[1]), int(match[2]), path.parent))
    if not captures:
        notes = [note for folder in (root, root / "captures") for note in noted(folder)]
        why = "".join(f"; {note}" for note in notes[:3])
        raise BadInput(
            f"captures: {str(root)!r} holds no capture (wanted round=R/client=C/{RECORD}){why}"
        )
    runs = sorted({str(capture.directory.parents[1]) for capture in captures})
    if len(runs) > 1:
        raise BadInput(f"captures: {str(root)!r} holds those of several runs; name one: {runs[0]}")
    return sorted(captures)


def update_sizes(root: Path) -> list[int]:
    """Return how many bytes each captured update under ``root`` takes on disk."""
    return [path.stat().st_size for path in root.glob(f"round=*/client=*/{UPDATE}")]


class ObservationRecord(FileRecord):
    """What observation.json says: all that is seen of a client but the tensors."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)
    schema_: Literal[1] = Field(alias="schema")
    round: Round
    client: Client
    kind: evidence.Kind
    cohort: list[Client] = Field([])
    num_examples: int = Field(ge=0)  # of all of them
    metrics: dict[str, float]
    config: dict[str, Any]  # of scalars
    model: dict[str, Any]
    node: str = Field("", pattern="^[0-9]{0,39}$")  # Flower's number of the client
    wire: dict[str, list[str]] = Field({})  # the types of what was sent and received as weights

    @field_validator("num_examples")
    @classmethod
    def _countable(cls, count: int, info: ValidationInfo) -> int:
        most = limits.EXAMPLES * max(1, len(info.data.get("cohort", ())))
        if count > most:
            raise ValueError(f"less than or equal to {most}")
        return count

    @field_validator("config")
    @classmethod
    def _possible(cls, config: dict[str, Any]) -> dict[str, Scalar]:
        for name, value in config.items():
            if what := evidence.wanted(name, value):
                raise ValueError(what)
        return config


def _record(where: CapturePath) -> ObservationRecord:
    path = where.directory / RECORD
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise MalformedFile(f"{path}: wanted schema {SCHEMA}")
    record = checked_record(str(path), value, ObservationRecord)
    _check_place(path, where, record)
    return record


def _check_place(path: Path, where: CapturePath, record: ObservationRecord) -> None:
    """Raise MalformedFile where a capture is not of the round and client whose truth it is for."""
    for name in ("round", "client"):
        wanted, got = getattr(where, name), getattr(record, name)
        if got != wanted:
            raise MalformedFile(f"{path}: wanted {name} {wanted} as its directory says, got {got}")
    cohort = record.cohort
    if cohort and (cohort[0] != where.client or len(set(cohort)) < len(cohort)):
        raise MalformedFile(
            f"{path}: cohort must be different clients, {where.client} the first, got {cohort}"
        )


class NoteRecord(FileRecord):
    """A line of notes.jsonl: what a tap could not read, and of whom first."""

    reason: str
    round: Round
    client: Client


def read_notes(root: Path) -> list[NoteRecord]:
    """Return what the tap that wrote the captures under ``root`` could not read, each once.

    Raises:
        MalformedFile: the file does not say what it must.
    """
    path = root / NOTES
    check_regular(path)
    notes = checked_rows(path, read_lines(path), NoteRecord)
    return list({note.reason: note for note in reversed(notes)}.values())[::-1]


def noted(root: Path) -> list[str]:
    """Return those notes as sentences for a terminal."""
    return [
        f"The tap notes: {printable(note.reason)} (first: round {note.round}, client {note.client})"
        for note in read_notes(root)
    ]


def is_masked(where: CapturePath) -> bool:
    """Return whether a capture holds what secure aggregation hides.

    Raises:
        MalformedFile: its record does not say what it must, or is of another place.
    """
    return _record(where).kind == "masked"


def captured_clients(where: CapturePath) -> tuple[int, ...]:
    """Return the clients whose texts are in one capture: several under secure aggregation.

    Raises:
        MalformedFile: its record does not say what it must, or is of another place.
    """
    return tuple(_record(where).cohort) or (where.client,)


def captured_node(where: CapturePath) -> int | None:
    """Return Flower's number of the client of one capture, where that was noted.

    Raises:
        MalformedFile: its record does not say what it must, or is of another place.
    """
    node = _record(where).node
    return int(node) if node else None


def read_capture(where: CapturePath) -> Captured:
    """Read one capture.

    Raises:
        MalformedFile: a file is missing, cut short, does not say what it must, or is of another
            round or client than its directory.
        BadInput: it is masked.
    """
    record = _record(where)
    if record.kind == "masked":
        raise BadInput(f"captures: {str(where.directory)!r} is masked by secure aggregation")
    update = Update(
        tensors=_tensors(where.directory / UPDATE),
        kind=record.kind,
        num_examples=record.num_examples,
        metrics=record.metrics,
    )
    parameters = _tensors(where.directory / BROADCAST)
    return Captured(
        round=where.round,
        client=where.client,
        broadcast=Broadcast(round=record.round, parameters=parameters, config=record.config),
        update=update,
        model=record.model,
        cohort=tuple(record.cohort),
        node=int(record.node) if record.node else None,
    )


def _tensors(path: Path) -> Parameters:
    check_regular(path)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise MalformedFile(f"{path} cannot be read: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.itemsize < SHORTEST:
            kind = f"{tensor.dtype} of {printable(name)!r}"
            raise MalformedFile(f"{path}: wanted floats of 16, 32 or 64 bits, got {kind}")
    return tensors
