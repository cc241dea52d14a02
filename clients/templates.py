"""Prompt templates: a text with names of columns in braces, filled in row by row.

What a row's last name stands for is its response: the prompt is the text before it.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clients.values import blank
from fedsim import limits
from fedsim.errors import BadInput, MalformedFile, unknown
from fedsim.files import read_text

INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"
DOLLY = {INPUT: "context", OUTPUT: "response"}  # what databricks-dolly-15k calls them
NAME = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class Template:
    """Text and names by turns, text first and last: ``{`` is written ``{{``."""

    pieces: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names in braces, in order."""
        return self.pieces[1::2]

    def filled(self, row: Mapping[str, str]) -> str:
        """Return the text with what ``row`` has under its names."""
        return "".join(row[piece] if at % 2 else piece for at, piece in enumerate(self.pieces))


def parsed(text: str, place: str) -> Template:
    """Return ``text`` as a template.

    Raises:
        BadInput: a brace is alone, or no name is in braces; the line begins with ``place``.
    """
    pieces, end = [""], 0
    for match in NAME.finditer(text):
        pieces[-1] += text[end : match.start()]
        end = match.end()
        if match[1] is not None:
            pieces += [match[1].strip(), ""]
        elif len(match[0]) == 2:
            pieces[-1] += match[0][0]
        else:
            line = text.count("\n", 0, match.start()) + 1
            raise BadInput(
                f"{place}: line {line} has a lone {match[0]!r}; a column's name stands in two, and "
                "a brace that is meant is written twice"
            )
    if len(pieces) == 1:
        raise BadInput(f"{place}: wanted the name of a column in braces, as {{text}}, got none")
    pieces[-1] += text[end:]
    return Template(tuple(pieces))


# As in the column "text" of tatsu-lab/alpaca on the hub.
_BELOW = "Below is an instruction that describes a task"
_WRITE = "Write a response that appropriately completes the request.\n\n"
WITH_INPUT = parsed(
    f"{_BELOW}, paired with an input that provides further context. {_WRITE}"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n{output}",
    "alpaca",
)
WITHOUT_INPUT = parsed(
    f"{_BELOW}. {_WRITE}### Instruction:\n{{instruction}}\n\n### Response:\n{{output}}", "alpaca"
)


@dataclass(frozen=True)
class Filled:
    """Texts from a template that has each name's cell in its place."""

    template: Template
    without_input: Template  # for a row whose input is blank
    places: Mapping[str, str]  # by name, the column that it is of
    note: str = ""
    chat = False

    @property
    def response(self) -> str:
        """The last line before the last name, in both templates, with the space after it."""
        before = {_last_line(made.pieces[-3]) for made in (self.template, self.without_input)}
        return before.pop() if len(before) == 1 else ""

    @property
    def columns(self) -> Sequence[str]:
        """The columns that a text is made of."""
        return list(self.places.values())

    def texts(self, frame: pd.DataFrame) -> list[str]:
        """Return each row's text; "" for one whose cells are all blank."""
        return [
            (self.template if row.get(INPUT, "").strip() else self.without_input).filled(row)
            if any(cell.strip() for cell in row.values())
            else ""
            for row in named_cells(frame, self.places)
        ]


def _last_line(text: str) -> str:
    said = text.rstrip()
    return said.splitlines()[-1] + text[len(said) :] if said else ""


def named_cells(frame: pd.DataFrame, places: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield each row's cells as texts, "" for a blank one, under the names of ``places``.

    Raises:
        BadInput: one holds a list or the like.
    """
    columns = [
        [_said(cell, column, row) for row, cell in frame[column].items()]
        for column in places.values()
    ]
    for cells in zip(*columns, strict=True):
        yield dict(zip(places, cells, strict=True))


def _said(cell: object, column: str, row: object) -> str:
    if blank(cell):
        return ""
    if isinstance(cell, list | tuple | dict | set | bytes | np.ndarray):
        raise BadInput(
            f"data.template: column {column!r}, row {row}: wanted a text or a number, got "
            f"{type(cell).__name__}"
        )
    return str(cell)


def instruction_places(there: Collection[str]) -> dict[str, str]:
    """Return where instruction, input and output stand among columns; {} where they do not.

    The input may be missing.
    """
    places = {name: column for name in (INSTRUCTION, INPUT, OUTPUT) if (column := _at(name, there))}
    return places if INSTRUCTION in places and OUTPUT in places else {}


def _at(name: str, there: Collection[str]) -> str:
    """Return the column that a name in braces is of; "" where there is none."""
    return next((one for one in (name, DOLLY.get(name, "")) if one in there), "")


def alpaca(places: Mapping[str, str], note: str = "") -> Filled:
    """Return Alpaca's template on the columns where instruction, input and output stand."""
    return Filled(WITH_INPUT, WITHOUT_INPUT, places, note)


def template_of_file(name: str, there: Collection[str]) -> Filled:
    """Return the template in the file called ``name`` on the columns that are ``there``.

    The line end that ends the file is none of its text's.

    Raises:
        BadInput: there is no such file, it is no template, or it has a name that no column has.
    """
    place = f"data.template {name!r}"
    try:
        text = read_text(Path(os.path.expanduser(name)), most=limits.CONFIG_BYTES)
    except FileNotFoundError:
        raise BadInput(f"{place}: there is no such file") from None
    except MalformedFile as error:
        raise BadInput(f"data.template: {error}") from error
    template = parsed(text.replace("\r\n", "\n").removesuffix("\n"), place)
    places = {one: _at(one, there) for one in template.names}
    for one, column in places.items():
        if not column:
            raise BadInput(
                f"{place}: {unknown('column', one, there, private=True)}; a brace is written {{{{"
            )
    return Filled(template, template, places)
