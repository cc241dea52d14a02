"""The vault: the true tokens of every client and round, out of band.

Clients write (:mod:`fedsim.vault.writer`), the lab reads (:mod:`fedsim.vault.reader`); attacks and
the server can import neither. What is written is sealed (:mod:`fedsim.vault.sealing`), and only the
lab has the key (:mod:`fedsim.vault.keys`).
"""

from pathlib import Path

POOL = "pool.jsonl"  # unrelated sequences, for the no-gradient control
SECRET = "secret.jsonl"  # what clients draw from, where a defense claims a guarantee


def truth_path(vault: Path, round_: int, client: int) -> Path:
    """Return where the true tokens of one update are noted."""
    return vault / f"round={round_}" / f"client={client}.jsonl"


def audit_root(vault: Path) -> Path:
    """Return where the wire audits of a run are noted: beside the vault, for the lab alone."""
    return vault.with_name("audit")


def audit_path(vault: Path, round_: int, client: int) -> Path:
    """Return where the wire audit of one update is noted."""
    return audit_root(vault) / f"round={round_}" / f"client={client}.json"


__all__ = ["POOL", "SECRET", "audit_path", "audit_root", "truth_path"]
