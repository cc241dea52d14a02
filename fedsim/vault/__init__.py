"""The vault: the true tokens of every client and round, out of band.

Clients write (:mod:`fedsim.vault.writer`), the lab reads (:mod:`fedsim.vault.reader`); attacks and
the server can import neither.
"""

from pathlib import Path


def audit_path(vault: Path, round_: int, client: int) -> Path:
    """Return where the wire audit of one update is noted: beside the vault, for the lab alone."""
    return vault.with_name("audit") / f"round={round_}" / f"client={client}.json"


__all__ = ["audit_path"]
