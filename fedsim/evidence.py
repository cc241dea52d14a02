"""What a capture is on disk, and how one is written: from numpy arrays, for a tap has no torch.

``fedsim.captures`` says what the files are for and reads them.
"""

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save_file

from fedsim import limits
from fedsim.files import make_directory, write_atomically, write_json

SCHEMA = 1
BROADCAST, UPDATE = "broadcast.safetensors", "update.safetensors"
RECORD = "observation.json"
NOTES = "notes.jsonl"  # under the root: what a tap could not read, a line a reason

Arrays = Mapping[str, np.ndarray]
"""Arrays by name."""

Kind = Literal["gradient", "delta", "masked"]
"""What was answered; ``masked`` is what secure aggregation hides, until a round is summed."""

LIMITED = {
    "local_epochs": limits.EPOCHS,
    "max_steps": limits.EPOCHS,
    "mini_batch_size": limits.EXAMPLES,
}
"""The most of what an attack does one by one."""


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """What was seen of one client in one round."""

    round: int
    client: int
    kind: Kind
    broadcast: Arrays
    update: Arrays
    num_examples: int  # 0: none was stated
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)  # the fields of a ModelSpec, where known
    cohort: Sequence[int] = ()  # the clients whose sum it is; none: the client's own update
    node: int | None = None  # Flower's number of the client, where that is all there is to go by
    wire: Mapping[str, Sequence[str]] = field(default_factory=dict)  # dtypes, if the files' differ


def place(root: Path, round_: int, client: int) -> Path:
    """Return the directory of one capture."""
    return root / f"round={round_}" / f"client={client}"


def wanted(name: str, value: object) -> str:
    """Return what is wanted in place of a metric or a setting; "" where ``value`` will do."""
    if not isinstance(value, bool | int | float | str) or not _plain(value):
        return f"a finite number or text as {name}"
    most = LIMITED.get(name)
    least = 0 if name == "max_steps" else 1
    if most is not None and (not isinstance(value, int) or not least <= value <= most):
        return f"{name} from {least} to {most:,}"
    return ""


def _plain(value: bool | int | float | str) -> bool:
    """Return whether any JSON reader takes ``value``, ours included."""
    if isinstance(value, str):
        return _unicode(value)
    return math.isfinite(value) and (isinstance(value, float) or abs(value) <= limits.INTEGER)


def _unicode(text: str) -> bool:
    with contextlib.suppress(UnicodeEncodeError):  # half of a surrogate pair
        return len(text.encode()) <= limits.TEXT
    return False


def write(directory: Path, seen: Exhibit, *, same_broadcast: Path | None = None) -> None:
    """Write one capture.

    Args:
        directory: ``round=R/client=C`` under the root, see :func:`place`.
        seen: what to write; metrics and settings that no reader takes are left out.
        same_broadcast: a broadcast.safetensors already written with these very weights: it is
            linked, so that a round of many clients stores its weights once.
    """
    target = directory / BROADCAST
    make_directory(directory)
    for stale in (RECORD, BROADCAST):
        (directory / stale).unlink(missing_ok=True)
    if same_broadcast is not None:
        with contextlib.suppress(OSError):  # a file system without links: write it again
            os.link(same_broadcast, target)
    if not target.exists():
        write_arrays(target, seen.broadcast)
    write_arrays(directory / UPDATE, seen.update)
    record = {
        "schema": SCHEMA,
        "round": seen.round,
        "client": seen.client,
        "kind": seen.kind,
        "num_examples": seen.num_examples,
        "metrics": {k: v for k, v in seen.metrics.items() if not wanted(k, v)},
        "config": {k: v for k, v in seen.config.items() if not wanted(k, v)},
        "model": dict(seen.model),
        **({"cohort": list(seen.cohort)} if seen.cohort else {}),
        **({"node": str(seen.node)} if seen.node is not None else {}),  # may have 64 bits
        **({"wire": {k: list(v) for k, v in seen.wire.items()}} if seen.wire else {}),
    }
    write_json(directory / RECORD, record)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write ``arrays`` to ``path`` atomically, as safetensors."""
    ready = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_atomically(path, lambda draft: save_file(ready, draft))
