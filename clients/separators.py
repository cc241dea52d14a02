"""What separates the cells of a table: the sign that splits its header and its rows alike."""

import csv
import io
import re
from collections.abc import Sequence
from typing import Literal

from fedsim.errors import BadInput

SEPARATORS = (",", ";", "\t", "|")  # spreadsheets write ; too
SIGNS = (*SEPARATORS, ":")  # what may be left of a header that was not split
HINT = re.compile(r'"?sep=(.)"?[ \t]*(?:\r\n|\r|\n)', re.IGNORECASE)  # meant for spreadsheets
ROWS, CHARACTERS = 50, 2**17  # of a table, that are looked at


def split_hint(text: str) -> tuple[str, str]:
    """Return the separator that the first line names, if it does, and the table itself."""
    hint = HINT.match(text)
    return (hint[1], text[hint.end() :]) if hint else ("", text)


def separator(text: str, own: str, place: str) -> str:
    """Return what separates the cells of a table; ``own`` where nothing splits its header.

    Args:
        text: the table, its header first.
        own: the separator that the kind of file is named after.
        place: the key and the file, for a line of error.

    Raises:
        BadInput: two split it equally well, or none splits a row as it splits the header.
    """
    fits = {}  # by separator that splits the header: how many of the rows it splits alike
    for sign in SEPARATORS:
        header, *rows = _first_rows(text, sign, quoted=sign != "\t" or own != "\t") or [0]
        if header > 1:
            fits[sign] = sum(cells == header for cells in rows) if rows else -1
    most = max(fits.values(), default=-1)
    best = [sign for sign, fit in fits.items() if fit == most] or [own]
    if own == "\t" and own in best:  # a file of that name has commas in its texts, not for cells
        return own
    if most == 0:
        raise BadInput(
            f"{place} is not a table: none of its first rows has as many cells as its header, "
            f"split at {_either(best)}"
        )
    if len(best) > 1:
        raise BadInput(
            f"{place} can be split at {_either(best)} alike; say at which in a line of its own "
            "before the header: sep=;"
        )
    return best[0]


def _either(signs: Sequence[str]) -> str:
    return " or ".join(map(repr, signs))


def _first_rows(text: str, sign: str, quoted: bool) -> Sequence[int]:
    """Return how many cells each of the first rows has, up to one that is no row."""
    how: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    head = io.StringIO(text[:CHARACTERS], newline="")
    counts: list[int] = []
    try:
        for cells in csv.reader(head, delimiter=sign, quoting=how, strict=True):
            if cells:
                counts.append(len(cells))
            if len(counts) > ROWS:
                return counts
    except csv.Error:  # a quotation mark that another separator would make sense of
        return counts
    return counts[:-1] if len(text) > CHARACTERS else counts  # the last is cut
