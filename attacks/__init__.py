"""Attacks: one paper a file. They need torch and transformers; neither Flower nor the truth."""

from attacks.bag import Bag
from attacks.base import Attack
from attacks.dager.attack import Dager
from attacks.dlg import Dlg
from attacks.film.attack import Film
from attacks.grab import Grab
from attacks.labels import LabelCounts
from attacks.lamp import Lamp
from attacks.lti import Lti
from attacks.membership import Membership
from attacks.partial import Partial
from attacks.tag import Tag
from fedsim.plugins import Plugins, table

ATTACKS: dict[str, type[Attack]] = {
    "bag": Bag,
    "dager": Dager,
    "dlg": Dlg,
    "film": Film,
    "grab": Grab,
    "labels": LabelCounts,
    "lamp": Lamp,
    "lti": Lti,
    "membership": Membership,
    "partial": Partial,
    "tag": Tag,
}


def attack_table() -> Plugins[Attack]:
    """Return every attack by name: the project's own and those registered by others."""
    return table("fedsim.attacks", Attack, ATTACKS)  # type: ignore[type-abstract]


__all__ = [
    "ATTACKS",
    "Attack",
    "Bag",
    "Dager",
    "Dlg",
    "Film",
    "Grab",
    "LabelCounts",
    "Lamp",
    "Lti",
    "Membership",
    "Partial",
    "Tag",
    "attack_table",
]
