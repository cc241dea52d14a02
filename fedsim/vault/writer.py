"""The writing side of the vault: all that a client may do with it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.files import write_bytes, write_json
from fedsim.rng import Secret
from fedsim.types import Tokens
from fedsim.vault import POOL, SECRET, audit_path, truth_path
from fedsim.vault.sealing import Seal


@dataclass(frozen=True)
class VaultWriter:
    """Notes what a client trains on, before anything touches the batch.

    One file a (round, client), ``root/round=R/client=C.jsonl``, so that clients in other processes
    never share one; noting a round again replaces it, which makes a resumed run whole. Each is
    sealed: who writes cannot read.
    """

    root: Path
    seal: Seal

    def note(
        self, round_: int, client: int, sequences: Sequence[Tokens], labels: Sequence[int | None]
    ) -> None:
        """Write one line per example: its token ids, special tokens included, and its label."""
        rows = [
            {"tokens": list(tokens), "label": label}
            for tokens, label in zip(sequences, labels, strict=True)
        ]
        self._write(truth_path(self.root, round_, client), rows)

    def pool(self, sequences: Iterable[Tokens]) -> None:
        """Write the unrelated sequences of the no-gradient control."""
        self._write(self.root / POOL, [{"tokens": list(tokens)} for tokens in sequences])

    def secret(self, secret: Secret, *, given: bool) -> None:
        """Write what clients draw from; ``given``: by somebody, who then knows it."""
        self._write(self.root / SECRET, [{"secret": secret.value.hex(), "given": given}])

    def _write(self, path: Path, rows: Sequence[object]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        place = path.relative_to(self.root).as_posix()
        write_bytes(path, self.seal.seal(text.encode(), place))

    def measured(self, round_: int, client: int, row: Mapping[str, Any]) -> None:
        """Write what the wire audit found of this client's update, for the lab alone."""
        write_json(audit_path(self.root, round_, client), dict(row))
