"""Defenses: one mechanism a file."""

from defenses.base import Defense, Guarantee
from defenses.dp_sgd import DPSGD
from defenses.none import NoDefense
from fedsim.plugins import table

DEFENSES: dict[str, type[Defense]] = {"dp-sgd": DPSGD, "none": NoDefense}


def defense_table() -> dict[str, type[Defense]]:
    """Return every defense by name: the project's own and those registered by others."""
    return table("fedsim.defenses", Defense, DEFENSES)


__all__ = ["DEFENSES", "DPSGD", "Defense", "Guarantee", "NoDefense", "defense_table"]
