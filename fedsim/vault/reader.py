"""The reading side of the vault: for the lab alone, which scores what attacks found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import MalformedMessage
from fedsim.files import read_json, read_lines
from fedsim.types import Tokens
from fedsim.vault import audit_path, truth_path


@dataclass(frozen=True)
class Truth:
    """What one client trained on in one round."""

    sequences: tuple[Tokens, ...]
    labels: tuple[int | None, ...]


@dataclass(frozen=True)
class VaultReader:
    """Reads back what :class:`fedsim.vault.writer.VaultWriter` noted."""

    root: Path

    def truth(self, round_: int, *clients: int) -> Truth | None:
        """Return what ``clients`` trained on in one round, or None where one's was not noted."""
        parts = [self._one(round_, client) for client in clients]
        known = [truth for truth in parts if truth is not None]
        if len(known) < len(parts):
            return None
        return Truth(
            sequences=tuple(tokens for truth in known for tokens in truth.sequences),
            labels=tuple(label for truth in known for label in truth.labels),
        )

    def _one(self, round_: int, client: int) -> Truth | None:
        path = truth_path(self.root, round_, client)
        if not path.exists():
            return None
        rows = list(read_lines(path))
        try:
            sequences = tuple(tuple(int(token) for token in row["tokens"]) for row in rows)
            return Truth(sequences=sequences, labels=tuple(row.get("label") for row in rows))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedMessage(f"{path}: each line needs a list 'tokens': {error!r}") from error

    def measured(self, round_: int, client: int) -> dict[str, Any] | None:
        """Return what the wire audit found of this client's update, or None where it found none."""
        path = audit_path(self.root, round_, client)
        return dict(read_json(path)) if path.exists() else None
