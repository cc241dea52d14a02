"""The reading side of the vault: for the lab alone, which scores what attacks found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import FedsimError, MalformedMessage
from fedsim.files import parsed_lines, read_json
from fedsim.rng import Secret
from fedsim.types import Tokens
from fedsim.vault import POOL, SECRET, audit_path, truth_path
from fedsim.vault.keys import own_key


@dataclass(frozen=True)
class Truth:
    """What one client trained on in one round."""

    sequences: tuple[Tokens, ...]
    labels: tuple[int | None, ...]


@dataclass(frozen=True)
class VaultReader:
    """Reads back what :class:`fedsim.vault.writer.VaultWriter` noted.

    Of a run from before vaults were sealed it reads what lies there as it is. Where this user's key
    is another than that of the vault, each method raises BadInput.
    """

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
        rows = self._rows(path)
        try:
            sequences = tuple(tuple(int(token) for token in row["tokens"]) for row in rows)
            return Truth(sequences=sequences, labels=tuple(row.get("label") for row in rows))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedMessage(f"{path}: each line needs a list 'tokens': {error!r}") from error

    def pool(self) -> list[Tokens]:
        """Return the unrelated sequences of the no-gradient control; none where none were noted."""
        path = self.root / POOL
        return [tuple(row["tokens"]) for row in self._rows(path)] if path.exists() else []

    def secret(self) -> tuple[Secret, bool] | None:
        """Return what clients draw from, and whether it was given; None where none was noted."""
        path = self.root / SECRET
        if not path.exists():
            return None
        try:
            (row,) = self._rows(path)
            return Secret(bytes.fromhex(row["secret"])), bool(row["given"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FedsimError):
                raise
            raise MalformedMessage(f"{path} holds no secret: {error!r}") from error

    def check(self) -> None:
        """Raise BadInput where the vault is sealed with another key than this user's."""
        for path in sorted(self.root.rglob("*.jsonl"))[:1]:
            self._rows(path)

    def _rows(self, path: Path) -> list[Any]:
        place = path.relative_to(self.root).as_posix()
        return list(parsed_lines(path, own_key().opened(path.read_bytes(), place)))

    def measured(self, round_: int, client: int) -> dict[str, Any] | None:
        """Return what the wire audit found of this client's update, or None where it found none."""
        path = audit_path(self.root, round_, client)
        return dict(read_json(path)) if path.exists() else None
