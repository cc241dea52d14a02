"""The vault: the true tokens of every client and round, out of band.

Clients write (:mod:`fedsim.vault.writer`), the lab reads (:mod:`fedsim.vault.reader`); attacks and
the server can import neither.
"""

from pathlib import Path


def truth_path(vault: Path, round_: int, client: int) -> Path:
    """Return where the true tokens of one update are noted."""
    return vault / f"round={round_}" / f"client={client}.jsonl"


def audit_root(vault: Path) -> Path:
    """Return where the wire audits of a run are noted: beside the vault, for the lab alone."""
    return vault.with_name("audit")


def audit_path(vault: Path, round_: int, client: int) -> Path:
    """Return where the wire audit of one update is noted."""
    return audit_root(vault) / f"round={round_}" / f"client={client}.json"


__all__ = ["audit_path", "audit_root", "truth_path"]
