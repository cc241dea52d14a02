"""The writing side of the vault: all that a client may do with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.files import write_lines
from fedsim.messages import Tokens


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
        write_lines(self.root / f"round={round_}" / f"client={client}.jsonl", rows)
