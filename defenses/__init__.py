"""Defenses: one mechanism a file."""

from defenses.base import Defense, Guarantee
from defenses.central_dp import CentralDP
from defenses.dp_sgd import DPSGD
from defenses.gaussian import Gaussian
from defenses.none import NoDefense
from fedsim.plugins import table

DEFENSES: dict[str, type[Defense]] = {
    "central-dp": CentralDP,
    "dp-sgd": DPSGD,
    "gaussian": Gaussian,
    "none": NoDefense,
}


def defense_table() -> dict[str, type[Defense]]:
    """Return every defense by name: the project's own and those registered by others."""
    return table("fedsim.defenses", Defense, DEFENSES)


__all__ = [
    "DEFENSES",
    "DPSGD",
    "CentralDP",
    "Defense",
    "Gaussian",
    "Guarantee",
    "NoDefense",
    "defense_table",
]
