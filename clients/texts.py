"""What the text of a row is: a column, a template filled in, or a conversation."""

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from clients.chat import MESSAGES, Messages, Turns, has_lists
from clients.named import Rows
from clients.separators import SIGNS
from clients.templates import alpaca, instruction_places, template_of_file
from clients.values import kinds, meant
from fedsim.errors import BadInput, quote, unknown

TEMPLATES = ("alpaca", "chat")  # words of data.template; any other is a file


class TextSource(Protocol):
    """What makes a row's text."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns that it is made of."""

    @property
    def chat(self) -> bool:
        """Whether it is a conversation, see clients.chat."""

    @property
    def response(self) -> str:
        """The text that a response follows, in every text; "" where nothing marks one."""

    @property
    def note(self) -> str:
        """What a reader must know of it; "" for nothing."""

    def texts(self, frame: pd.DataFrame) -> list[str]:
        """Return each row's text, "" for one that has none.

        Raises:
            BadInput: a cell is not what it must be; the line has its row.
        """


@dataclass(frozen=True)
class OneColumn:
    """Texts from a column of strings, stripped."""

    column: str
    untyped: bool
    chat = False
    note = ""
    response = ""

    @property
    def columns(self) -> Sequence[str]:
        """The column."""
        return (self.column,)

    def texts(self, frame: pd.DataFrame) -> list[str]:
        """Return each row's text, "" for one that has none."""
        cells = frame[self.column]
        if others := sorted(_kinds(cells, self.untyped) - {"str", "blank"}):
            raise BadInput(
                f"data.text_column {quote(repr(self.column))} must hold strings, got "
                f"{', '.join(others)}"
            )
        return [cell.strip() if isinstance(cell, str) else "" for cell in cells]


def text_source(rows: Rows, template: str, column: str, label: str) -> TextSource:
    """Return what makes the texts of ``rows``.

    Args:
        rows: the data.
        template: data.template.
        column: data.text_column, which is there.
        label: the column of the labels, which is no text.

    Raises:
        BadInput: the template does not fit the columns, or they do not tell what the texts are.
    """
    if template:
        return _by_template(template, rows.train)
    if column:
        return OneColumn(column, rows.untyped)
    if MESSAGES in rows.train and has_lists(rows.train[MESSAGES]):
        return Messages()
    places = instruction_places(_names(rows.train))
    if places and label not in places.values():
        told = ", ".join(places.values())
        return alpaca(places, f"Texts are made of {told} by the template alpaca (data.template).")
    return OneColumn(_text_column(rows, label), rows.untyped)


def _by_template(template: str, frame: pd.DataFrame) -> TextSource:
    there = _names(frame)
    if template not in TEMPLATES:
        if not Path(os.path.expanduser(template)).exists():
            raise BadInput(f"{unknown('data.template', template, TEMPLATES)}, nor is it a file")
        return template_of_file(template, there)
    if template == "chat" and MESSAGES in there:
        return Messages()
    if places := instruction_places(there):
        return Turns(places) if template == "chat" else alpaca(places)
    wanted = "instruction, input (or context; it may be missing) and output (or response)"
    raise BadInput(
        f"data.template {template!r} takes the columns {'messages, or ' * (template == 'chat')}"
        f"{wanted}, got {quote(', '.join(there))}"
    )


def _names(frame: pd.DataFrame) -> list[str]:
    return list(map(str, frame.columns))


def _text_column(rows: Rows, label: str) -> str:
    frame = rows.train
    for name in ("text", "sentence", "prompt"):
        if name in frame and name != label:
            return name
    others = [str(name) for name in frame.columns if name != label]
    strings = [
        name for name in others if {"str"} <= _kinds(frame[name], rows.untyped) <= {"str", "blank"}
    ]
    if len(strings) != 1:
        raise BadInput(
            "data.text_column must be given: none is called text, sentence or prompt, and "
            f"{len(strings)} hold strings (columns: {quote(', '.join(_names(frame)))})"
        )
    if len(frame.columns) == 1:
        _need_one(strings[0], frame[strings[0]])
    return strings[0]


def _need_one(column: str, cells: Iterable[Any]) -> None:
    """Refuse a sole column that seems to be several: a sign in its name is in all its texts."""
    texts = [text for text in cells if isinstance(text, str) and text.strip()]
    for sign in SIGNS:
        if sign in column and all(sign in text for text in texts):
            raise BadInput(
                f"data.name has one column, {quote(repr(column))}, and all its texts have {sign!r} "
                "in them as its name has, as if they were several; name it as data.text_column if "
                "it is one"
            )


def _kinds(cells: "pd.Series[Any]", untyped: bool) -> set[str]:
    return kinds(meant(list(cells)) if untyped else cells)


def need_unicode(values: Collection[Any], name: str, column: str) -> None:
    """Refuse half of a surrogate pair: JSON can say it, but no file can hold it."""
    try:
        "".join(value for value in values if isinstance(value, str)).encode()
    except UnicodeEncodeError:
        pass  # it is to be named
    else:
        return
    for number, value in enumerate(values, start=1):
        half = re.search("[\ud800-\udfff]", value) if isinstance(value, str) else None
        if half:
            raise BadInput(
                f"data.name {name!r}, column {quote(repr(column))}, row {number}: wanted text, got "
                f"a lone surrogate, U+{ord(half[0]):04X}"
            )
