"""Attacks: one paper a file. They need torch and transformers; neither Flower nor the truth."""

from attacks.base import Attack
from attacks.dager.attack import Dager
from attacks.dlg import Dlg
from attacks.grab import Grab
from attacks.lamp import Lamp
from attacks.lti import Lti
from attacks.membership import Membership
from attacks.partial import Partial
from attacks.tag import Tag
from fedsim.plugins import table

ATTACKS: dict[str, type[Attack]] = {
    "dager": Dager,
    "dlg": Dlg,
    "grab": Grab,
    "lamp": Lamp,
    "lti": Lti,
    "membership": Membership,
    "partial": Partial,
    "tag": Tag,
}


def attack_table() -> dict[str, type[Attack]]:
    """Return every attack by name: the project's own and those registered by others."""
    return table("fedsim.attacks", Attack, ATTACKS)  # type: ignore[type-abstract]


__all__ = [
    "ATTACKS",
    "Attack",
    "Dager",
    "Dlg",
    "Grab",
    "Lamp",
    "Lti",
    "Membership",
    "Partial",
    "Tag",
    "attack_table",
]
