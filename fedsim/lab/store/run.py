"""A run's directory: every file is whole or not there, and a killed run goes on from it."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedsim.errors import BadInput, MalformedFile
from fedsim.files import (
    append_line,
    check_regular,
    parse_json,
    read_lines,
    write_json,
    write_lines,
    write_tensors,
    write_text,
)
from fedsim.lab.config import Config, check, read_toml
from fedsim.lab.store import layout
from fedsim.lab.store.attempts import AttackRecord, once
from fedsim.lab.store.manifest import manifest
from fedsim.lab.store.records import check_fit
from fedsim.lab.store.rounds import RoundRecord, in_order
from fedsim.lab.store.samples import Sample, read_samples, write_samples
from fedsim.lab.store.summary import Summary, read_summary
from fedsim.records import FileRecord, Round, checked_rows
from fedsim.types import Parameters, Tokens
from fedsim.vault import audit_root
from fedsim.vault.keys import own_key
from fedsim.vault.reader import VaultReader
from fedsim.vault.writer import VaultWriter
from server import Progress

KEPT = 2  # checkpoints
CHECKPOINT = re.compile(r"round=([0-9]{1,9})\.safetensors")
ROUND = re.compile(r"round=([0-9]{1,9})")


def checksum(parameters: Parameters) -> str:
    """Return the SHA-256 of all weights, by sorted name: equal bits, equal checksum."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        digest.update(parameters[name].detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run."""

    root: Path

    @classmethod
    def default(cls, config: Config) -> "RunDirectory":
        """Return ``runs/<name>-<UTC>-<hash>``, the hash over the resolved config."""
        text = json.dumps(config.as_toml(), sort_keys=True, default=str)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return cls(layout.RUNS / f"{config.name}-{now}-{digest}")

    @property
    def captures(self) -> Path:
        """What the server saw."""
        return self.root / layout.CAPTURES

    @property
    def vault(self) -> Path:
        """What the clients trained on."""
        return self.root / layout.VAULT

    @property
    def checkpoints(self) -> Path:
        """Where a killed run goes on."""
        return self.root / layout.CHECKPOINTS

    @property
    def errors(self) -> Path:
        """The tracebacks of plugins that raised: one line of each is told elsewhere."""
        return self.root / layout.ERRORS

    def check_free(self) -> None:
        """Raise BadInput where there is a run already."""
        if layout.is_run(self.root):
            raise BadInput(
                f"--out: {str(self.root)!r} already holds a run; add --resume to go on with it, "
                "or choose another directory"
            )
        if self.root.exists() and not self.root.is_dir():
            raise BadInput(f"--out: {str(self.root)!r} is not a directory")

    def create(self, config: Config, *, quick: bool = False, command: str = "") -> None:
        """Make the directory and write what the run is: config and manifest.

        Args:
            config: the run's.
            quick: whether its attacks have no controls.
            command: that began it, if one did.

        Raises:
            BadInput: there is a run already.
        """
        self.check_free()
        write_json(self.root / layout.MANIFEST, manifest(config, quick=quick, command=command))
        write_text(self.root / layout.CONFIG, tomli_w.dumps(config.as_toml()))

    def check(self) -> None:
        """Make sure that this is a run.

        Raises:
            BadInput: it is none.
        """
        if not layout.is_run(self.root):
            raise BadInput(f"{str(self.root)!r} holds no run (no {layout.CONFIG})")

    def config(self) -> Config:
        """Return the config of a run that is to go on.

        Raises:
            BadInput: there is no run here.
        """
        if not layout.is_run(self.root):
            raise BadInput(f"--resume: {str(self.root)!r} holds no run (no {layout.CONFIG})")
        return check(read_toml(self.root / layout.CONFIG))

    def finish(self, summary: Summary, samples: Sequence[Sample]) -> None:
        """Write the results; the summary last, which says that the run is finished."""
        (self.root / layout.SUMMARY).unlink(missing_ok=True)  # of other samples
        write_samples(self.root, samples)
        self.write_summary(summary)

    def write_summary(self, summary: Summary) -> None:
        """Write summary.json."""
        write_json(self.root / layout.SUMMARY, summary.as_dict())

    def summary(self) -> Summary:
        """Return the results of a finished run.

        Raises:
            BadInput: there is no run, it is not finished, or the file does not say what it must.
        """
        self.check()
        return read_summary(self.root)

    def samples(self, summary: Summary) -> list[Sample]:
        """Return the samples that ``summary`` is of, in its order.

        Raises:
            MalformedMessage: the file is missing or broken, or is not that of the summary.
        """
        return read_samples(self.root, summary)

    def attempts(self) -> list[AttackRecord]:
        """Return each time that an attack was run.

        Raises:
            MalformedFile: a line does not say what it must, or says the same twice.
        """
        path = self.root / layout.ATTEMPTS
        return once(path, checked_rows(path, self.rows(layout.ATTEMPTS), AttackRecord))

    def attacked(self, summary: Summary) -> list[AttackRecord]:
        """Return what was said of each update, in the order of ``summary``; no controls.

        Raises:
            MalformedMessage: as :meth:`attempts`, or it is not what the summary is of.
        """
        attacked = [attempt for attempt in self.attempts() if attempt.role == "attack"]
        check_fit(self.root / layout.ATTEMPTS, attacked, summary.attacks, len(summary.attacks))
        return attacked

    def note_attempt(self, attempt: AttackRecord) -> None:
        """Note that an attack was run."""
        self.append(layout.ATTEMPTS, attempt.as_dict())

    def note_pool(self, pool: Sequence[Tokens]) -> None:
        """Write the unrelated sequences of the no-gradient control."""
        VaultWriter(self.vault, own_key().seal).pool(pool)

    def pool(self) -> list[Tokens]:
        """Return the unrelated sequences of the no-gradient control; none where none were noted."""
        return VaultReader(self.vault).pool()

    def rounds(self) -> list[RoundRecord]:
        """Return the rounds that are done.

        Raises:
            MalformedFile: a line does not say what it must, or the rounds are not 0, 1, 2, ...
        """
        path = self.root / layout.ROUNDS
        return in_order(path, checked_rows(path, self.rows(layout.ROUNDS), RoundRecord))

    def note_round(self, record: RoundRecord) -> None:
        """Note that a round is done."""
        self.append(layout.ROUNDS, record.as_dict())

    def save(self, progress: Progress) -> None:
        """Write a checkpoint and drop those that are no longer needed."""
        tensors: dict[str, Tensor] = {f"w/{k}": v for k, v in progress.parameters.items()}
        tensors |= {f"s/{k}": v for k, v in progress.strategy.items()}
        path = self.checkpoints / f"round={progress.round}.safetensors"
        write_tensors(path, tensors, {"order": json.dumps(list(tensors))})
        for path in self._checkpoints()[:-KEPT]:
            path.unlink()

    def _checkpoints(self) -> list[Path]:
        found = {path: CHECKPOINT.fullmatch(path.name) for path in self.checkpoints.glob("*")}
        return sorted((path for path, name in found.items() if name), key=_round)

    def latest(self, last: int) -> Progress | None:
        """Return the newest checkpoint up to round ``last`` that can be read; None: there is none.

        Of a run that goes on ``last`` is the last round that is noted. A later one was noted once,
        before a disk's fault: what it read and spent would be in no figure, so it is run again.
        """
        for path in reversed(self._checkpoints()):
            if _round(path) > last:
                continue
            try:
                check_regular(path)
                with safe_open(path, framework="pt") as file:
                    # By place, not by name: FedAvgM keeps its momentum as a list.
                    order = _names(file.metadata() or {})
                    tensors = {name: file.get_tensor(name) for name in order}
            except (OSError, SafetensorError, MalformedFile):
                continue
            return Progress(
                round=_round(path),
                parameters={k[2:]: v for k, v in tensors.items() if k.startswith("w/")},
                strategy={k[2:]: v for k, v in tensors.items() if k.startswith("s/")},
            )
        return None

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append one line to ``name``, of those in :mod:`fedsim.lab.store.layout`."""
        append_line(self.root / name, row)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of ``name``; none where it does not exist."""
        return list(read_lines(self.root / name))

    def forget_after(self, round_: int) -> None:
        """Drop what a killed run noted about rounds that will be run again."""
        for name in (layout.ROUNDS, layout.ATTEMPTS):
            path = self.root / name
            if path.exists():
                rows = self.rows(name)
                places = checked_rows(path, rows, PlacedLine)
                kept = [row for row, at in zip(rows, places, strict=True) if at.round <= round_]
                write_lines(path, kept)
        for path in self.errors.glob("round=*"):
            if (of := ROUND.fullmatch(path.name)) and int(of[1]) > round_:
                shutil.rmtree(path)

    def go_on_after(self, round_: int) -> None:
        """Drop all that is of later rounds, which are run again, and results that lack them."""
        self.forget_after(round_)
        (self.root / layout.SUMMARY).unlink(missing_ok=True)
        for folder in (self.captures, self.vault, audit_root(self.vault)):
            for path in folder.glob("round=*"):
                if (of := ROUND.fullmatch(path.name)) and int(of[1]) > round_:
                    shutil.rmtree(path)


def _round(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("round="))


class PlacedLine(FileRecord):
    """A line of what is noted by rounds."""

    round: Round


def _names(metadata: Mapping[str, str]) -> list[str]:
    """Return the names of a checkpoint's tensors, in the order in which they were."""
    names = parse_json(metadata.get("order", "").encode(), "order")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MalformedFile("order: wanted a list of names")
    return names
