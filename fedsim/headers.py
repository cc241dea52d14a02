"""What a plugin says of itself: the lines at the head of its file.

Source:      the paper, and where in it.
Assumes:     what must hold for the attack to work.
Recovers:    what it reads. (Of a defense: ``Guarantee:``, what it promises.)
Deviations:  where it does otherwise than the paper, and why;
             a line that is indented goes on with the one before it.
"""

import inspect
import re
import sys
from collections.abc import Mapping

ATTACK = ("source", "assumes", "recovers", "deviations")
"""What the header of an attack says, in this order."""

DEFENSE = ("source", "guarantee", "deviations")
"""What the header of a defense says, in this order."""

NOT_SAID = "not said"
_KEYS = "|".join(word.capitalize() for word in {*ATTACK, *DEFENSE})
_LINE = re.compile(rf"({_KEYS}):\s+(\S.*)")


def first_line(kind: type) -> str:
    """Return the first line of a class's docstring; "" where there is none."""
    return (kind.__doc__ or "").strip().partition("\n")[0]


def header(kind: type) -> Mapping[str, str]:
    """Return what the header of ``kind`` says, by lower-cased key; what it does not say is absent.

    It is the docstring of the module that the class is written in, or else of the nearest package
    around that which has one of these lines.
    """
    name = kind.__module__
    while name:
        if said := parse(getattr(sys.modules.get(name), "__doc__", None) or ""):
            return said
        name = name.rpartition(".")[0]
    return {}


def parse(doc: str) -> dict[str, str]:
    """Return the header's lines in a docstring, by lower-cased key, each as one plain line."""
    said: dict[str, str] = {}
    key = ""
    for line in inspect.cleandoc(doc).replace("``", "").splitlines():
        if begins := _LINE.fullmatch(line):
            key = begins[1].lower()
            said[key] = begins[2].strip()
        elif key and line[:1].isspace():
            said[key] += f" {line.strip()}"
        else:
            key = ""
    return said
