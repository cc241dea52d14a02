"""The reading side of the vault: for the lab alone, which scores what attacks found."""

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import override

from fedsim import limits
from fedsim.errors import MalformedFile
from fedsim.files import parsed_lines, read_bytes
from fedsim.records import FileRecord, R, TokenIds, checked_rows, read_record
from fedsim.rng import SIZE, Secret
from fedsim.types import Tokens
from fedsim.vault import POOL, SECRET, audit_path, truth_path
from fedsim.vault.keys import own_key


class TruthLine(FileRecord):
    """A line of the vault: one example."""

    tokens: TokenIds
    label: int | None = Field(None, ge=-limits.INTEGER, le=limits.INTEGER)


class PoolLine(FileRecord):
    """A line of the pool: an unrelated sequence."""

    tokens: TokenIds


class SecretLine(FileRecord):
    """What clients draw from."""

    secret: str = Field(pattern=f"^[0-9a-f]{{{2 * SIZE}}}$")
    given: bool  # by somebody, who then knows it


class WireAudit(FileRecord):
    """What a client measured of its own update, or why there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)
    defenses: list[dict[str, float]] = Field([])  # what the audit of each found
    bytes: int | float | None = None
    seconds: float | None = None
    bits_per_entry: float | None = None
    error: str | None = None  # a traceback
    failed: str | None = None  # a defense did not do what it says it does

    @model_validator(mode="after")
    def _whole(self) -> "WireAudit":
        if None in (self.bytes, self.seconds, self.bits_per_entry) and not self.went_wrong:
            raise ValueError("bytes, seconds and bits_per_entry, or else why there are none")
        return self

    @property
    def went_wrong(self) -> bool:
        """Whether there is no update."""
        return self.error is not None or self.failed is not None


@dataclass(frozen=True)
class Truth:
    """What one client trained on in one round."""

    sequences: tuple[Tokens, ...]
    labels: tuple[int | None, ...]


class Truths(ABC):
    """Whatever knows what clients trained on: for the lab alone."""

    def truth(self, round_: int, *clients: int) -> Truth | None:
        """Return what ``clients`` trained on in one round, or None where one's is not known."""
        parts = [self._one(round_, client) for client in clients]
        known = [truth for truth in parts if truth is not None]
        if len(known) < len(parts):
            return None
        return Truth(
            sequences=tuple(tokens for truth in known for tokens in truth.sequences),
            labels=tuple(label for truth in known for label in truth.labels),
        )

    @abstractmethod
    def _one(self, round_: int, client: int) -> Truth | None:
        """Return what one client trained on in one round, or None where that is not known."""


@dataclass(frozen=True)
class VaultReader(Truths):
    """Reads back what :class:`fedsim.vault.writer.VaultWriter` noted.

    Of a run from before vaults were sealed it reads what lies there as it is. Where this user's key
    is another than that of the vault, each method raises BadInput.
    """

    root: Path

    @override
    def _one(self, round_: int, client: int) -> Truth | None:
        path = truth_path(self.root, round_, client)
        if not path.exists():
            return None
        try:
            lines = self._rows(path, TruthLine)
        except MalformedFile as error:
            raise MalformedFile(f"{error}; each line needs a list 'tokens'") from error
        return Truth(
            sequences=tuple(tuple(line.tokens) for line in lines),
            labels=tuple(line.label for line in lines),
        )

    def pool(self) -> list[Tokens]:
        """Return the unrelated sequences of the no-gradient control; none where none were noted."""
        path = self.root / POOL
        rows = self._rows(path, PoolLine) if path.exists() else []
        return [tuple(row.tokens) for row in rows]

    def secret(self) -> tuple[Secret, bool] | None:
        """Return what clients draw from, and whether it was given; None where none was noted."""
        path = self.root / SECRET
        if not path.exists():
            return None
        rows = self._rows(path, SecretLine)
        if len(rows) != 1:
            raise MalformedFile(f"{path}: wanted one line, got {len(rows)}")
        return Secret(bytes.fromhex(rows[0].secret)), rows[0].given

    def check(self) -> None:
        """Raise BadInput where the vault is sealed with another key than this user's."""
        for path in sorted(self.root.rglob("*.jsonl"))[:1]:
            self._content(path)

    def _rows(self, path: Path, kind: type[R]) -> list[R]:
        lines = parsed_lines(path, io.BytesIO(self._content(path)))
        return checked_rows(path, lines, kind)

    def _content(self, path: Path) -> bytes:
        place = path.relative_to(self.root).as_posix()
        return own_key().opened(read_bytes(path, most=limits.VAULT_BYTES), place)

    def measured(self, round_: int, client: int) -> dict[str, Any] | None:
        """Return what the wire audit found of this client's update, or None where it found none."""
        path = audit_path(self.root, round_, client)
        if not path.exists():
            return None
        return read_record(path, WireAudit).as_dict()
