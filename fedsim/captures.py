"""Captures: what the server saw of one client in one round, on disk, to attack later or elsewhere.

``captures/round=R/client=C/`` holds ``broadcast.safetensors``, ``update.safetensors`` and
``observation.json``, which is written last: a capture without it was never finished. Reading one
needs neither Flower nor anything of the clients.
"""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from fedsim.errors import BadInput, MalformedMessage
from fedsim.files import make_directory, read_json, write_json, write_tensors
from fedsim.messages import Broadcast, Update
from fedsim.types import Parameters

SCHEMA = 1
BROADCAST, UPDATE = "broadcast.safetensors", "update.safetensors"
RECORD = "observation.json"
PLACE = re.compile(r"round=(\d+)/client=(\d+)$")


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
    record = {
        "schema": SCHEMA,
        "round": broadcast.round,
        "client": client,
        "kind": update.kind,
        "num_examples": update.num_examples,
        "metrics": dict(update.metrics),
        "config": dict(broadcast.config),
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


def _record(where: CapturePath) -> dict[str, Any]:
    path = where.directory / RECORD
    record = read_json(path)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise MalformedMessage(f"{path}: wanted schema {SCHEMA}")
    return record


def captured_clients(where: CapturePath) -> tuple[int, ...]:
    """Return the clients whose texts are in one capture: several under secure aggregation.

    Raises:
        MalformedMessage: its record is cut short or of another schema.
    """
    return tuple(_record(where).get("cohort", ())) or (where.client,)


def read_capture(where: CapturePath) -> Captured:
    """Read one capture.

    Raises:
        MalformedMessage: a file is missing, cut short or of another schema.
    """
    path, record = where.directory / RECORD, _record(where)
    try:
        update = Update(
            tensors=_tensors(where.directory / UPDATE),
            kind=record["kind"],
            num_examples=int(record["num_examples"]),
            metrics=dict(record["metrics"]),
        )
        broadcast = Broadcast(
            round=int(record["round"]),
            parameters=_tensors(where.directory / BROADCAST),
            config=dict(record["config"]),
        )
        model = dict(record["model"])
        cohort = tuple(int(client) for client in record.get("cohort", ()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MalformedMessage(f"{path}: {error!r}") from error
    return Captured(
        round=where.round,
        client=where.client,
        broadcast=broadcast,
        update=update,
        model=model,
        cohort=cohort,
    )


def _tensors(path: Path) -> Parameters:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MalformedMessage(f"{path} cannot be read: {error}") from error
