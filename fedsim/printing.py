"""Foreign text on a terminal: what plugins, clients and files say may hold what drives one."""

import json
import re
from typing import Any


def printable(text: str) -> str:
    """Return ``text`` with control characters shown, so that it cannot drive the terminal."""
    return "".join(c if c.isprintable() or c == " " else repr(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """Return ``text``, its lines as they are, each of them printable."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(value: Any) -> str:
    """Return ``value`` as indented JSON, in which no string holds what drives a terminal."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return re.sub(r"[^\n -~]", lambda match: _escaped(match[0]), text)


def _escaped(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]
