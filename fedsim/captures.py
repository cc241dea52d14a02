"""Captures: what the server saw of one client in one round, on disk, to attack later or elsewhere.

``captures/round=R/client=C/`` holds ``broadcast.safetensors``, ``update.safetensors`` and
``observation.json``, which is written last: a capture without it was never finished. Reading one
needs neither Flower nor anything of the clients.
"""

import contextlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedsim import limits
from fedsim.errors import BadInput, MalformedFile
from fedsim.files import check_regular, make_directory, read_json, write_json, write_tensors
from fedsim.messages import Broadcast, Update, UpdateKind
from fedsim.records import Client, FileRecord, Round, checked_record
from fedsim.types import Parameters, Scalar

SCHEMA = 1
BROADCAST, UPDATE = "broadcast.safetensors", "update.safetensors"
RECORD = "observation.json"
NUMBER = "(0|[1-9][0-9]{0,17})"  # one way to write it: no two directories are of one client
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

    @property
    def clients(self) -> tuple[int, ...]:
        """The clients whose texts are in it."""
        return self.cohort or (self.client,)


def place(root: Path, round_: int, client: int) -> Path:
    """Return the directory of one capture."""
    return root / f"round={round_}" / f"client={client}"


def write_capture(
    directory: Path,
    client: int,
    broadcast: Broadcast,
    update: Update,
    model: Mapping[str, Any],
    same_broadcast: Path | None = None,
    cohort: Sequence[int] = (),
) -> None:
    """Write one capture.

    Args:
        directory: ``round=R/client=C`` under the root, see :func:`place`.
        client: the client's number.
        broadcast: what was sent.
        update: what came back.
        model: the fields of a ModelSpec, or {} where it is not known.
        same_broadcast: a broadcast.safetensors already written with these very weights: it is
            linked, so that a round of many clients stores its weights once.
        cohort: the clients whose sum it is; none: the client's own update.
    """
    target = directory / BROADCAST
    make_directory(directory)
    for stale in (RECORD, BROADCAST):
        (directory / stale).unlink(missing_ok=True)
    if same_broadcast is not None:
        with contextlib.suppress(OSError):  # a file system without links: write it again
            os.link(same_broadcast, target)
    if not target.exists():
        write_tensors(target, broadcast.parameters)
    write_tensors(directory / UPDATE, update.tensors)
    said: Mapping[str, Mapping[str, Scalar]] = {
        "metrics": update.metrics,
        "config": broadcast.config,
    }
    record = {
        "schema": SCHEMA,
        "round": broadcast.round,
        "client": client,
        "kind": update.kind,
        "num_examples": update.num_examples,
        **{what: {k: v for k, v in told.items() if _finite(v)} for what, told in said.items()},
        "model": dict(model),
        **({"cohort": list(cohort)} if cohort else {}),
    }
    write_json(directory / RECORD, record)


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
        raise BadInput(
            f"captures: {str(root)!r} holds no capture (wanted round=R/client=C/{RECORD})"
        )
    runs = sorted({str(capture.directory.parents[1]) for capture in captures})
    if len(runs) > 1:
        raise BadInput(f"captures: {str(root)!r} holds those of several runs; name one: {runs[0]}")
    return sorted(captures)


def update_sizes(root: Path) -> list[int]:
    """Return how many bytes each captured update under ``root`` takes on disk."""
    return [path.stat().st_size for path in root.glob(f"round=*/client=*/{UPDATE}")]


def _finite(value: Scalar) -> bool:
    return not isinstance(value, float) or math.isfinite(
        value
    )  # what is not tells an attack nothing


class ObservationRecord(FileRecord):
    """What observation.json says: all that is seen of a client but the tensors."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)
    schema_: Literal[1] = Field(alias="schema")
    round: Round
    client: Client
    kind: UpdateKind
    cohort: list[Client] = Field([])
    num_examples: int = Field(ge=0)  # of all of them
    metrics: dict[str, float]
    config: dict[str, Any]  # of scalars
    model: dict[str, Any]

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
            if not isinstance(value, Scalar) or not _finite(value):
                raise ValueError(f"a finite number or text as {name}")
        for name, most in (("local_epochs", limits.EPOCHS), ("mini_batch_size", limits.EXAMPLES)):
            value = config.get(name, 1)
            if not isinstance(value, int) or not 0 < value <= most:
                raise ValueError(f"{name} from 1 to {most:,}")
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


def captured_clients(where: CapturePath) -> tuple[int, ...]:
    """Return the clients whose texts are in one capture: several under secure aggregation.

    Raises:
        MalformedFile: its record does not say what it must, or is of another place.
    """
    return tuple(_record(where).cohort) or (where.client,)


def read_capture(where: CapturePath) -> Captured:
    """Read one capture.

    Raises:
        MalformedFile: a file is missing, cut short, does not say what it must, or is of another
            round or client than its directory.
    """
    record = _record(where)
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
    )


def _tensors(path: Path) -> Parameters:
    check_regular(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MalformedFile(f"{path} cannot be read: {error}") from error
