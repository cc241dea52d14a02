"""The writing side of the vault: all that a client may do with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.files import write_json, write_lines
from fedsim.types import Tokens
from fedsim.vault import audit_path, truth_path


@dataclass(frozen=True)
class VaultWriter:
    """Notes what a client trains on, before anything touches the batch.

    One file a (round, client), ``root/round=R/client=C.jsonl``, so that clients in other processes
    never share one; noting a round again replaces it, which makes a resumed run whole.
    """

    root: Path

    def note(
        self, round_: int, client: int, sequences: Sequence[Tokens], labels: Sequence[int | None]
    ) -> None:
        """Write one line per example: its token ids, special tokens included, and its label."""
        rows = [
            {"tokens": list(tokens), "label": label}
            for tokens, label in zip(sequences, labels, strict=True)
        ]
        write_lines(truth_path(self.root, round_, client), rows)

    def measured(self, round_: int, client: int, row: Mapping[str, Any]) -> None:
        """Write what the wire audit found of this client's update, for the lab alone."""
        write_json(audit_path(self.root, round_, client), dict(row))
