"""What cells say: their kinds, and the whole numbers that labels may be."""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from fedsim.errors import BadInput, quote, shown

# No 01: that is a name, a code, a postcode. No 1e5: hexadecimal names look like that.
NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]{0,99})(?:\.[0-9]*)?|\.[0-9]+)")
DIGITS = 400  # of a whole number; a float has 309 at most


def numbered(
    column: "pd.Series[Any]", values: Iterable[Any], what: str, names: tuple[str, ...] = ()
) -> tuple[list[int], tuple[str, ...]]:
    """Replace values by their place among ``names``, or else in their own sorted order.

    Args:
        column: all cells, by their rows' numbers.
        values: what they say, one each.
        what: the key of the config and the column's name, for a line of error.
        names: of whole numbers from 0; none: what the values say.

    Raises:
        BadInput: they are not all whole numbers or all strings, none of ``names``, or one number
            stands there in two forms.
    """
    values = [_as_whole(value) for value in values]
    _check_one_form(column, values, what)
    first: dict[str, int] = {}  # by kind, the row that it is first met in
    for row, value in zip(column.index, values, strict=True):
        first.setdefault(_kind(value), row)
    if set(first) not in ({"int"}, {"str"}, {"bool"}):
        found = ", ".join(f"{kind} in row {row}" for kind, row in sorted(first.items()))
        raise BadInput(f"{what} must hold only whole numbers or only strings, got {found}")
    known = list(range(len(names))) or sorted(set(values))
    if strange := sorted(set(values) - set(known)):
        raise BadInput(
            f"{what} must be 0 to {len(names) - 1} ({', '.join(names)}), got "
            f"{quote(repr(strange[0]))}"
        )
    place = {value: number for number, value in enumerate(known)}
    return [place[value] for value in values], names or tuple(map(str, known))


def _check_one_form(column: "pd.Series[Any]", values: Sequence[Any], what: str) -> None:
    """Raise BadInput where ``column`` has two forms of one of ``values``, which are its cells'."""
    first: dict[Any, tuple[object, str]] = {}
    for (row, cell), value in zip(column.items(), values, strict=True):
        if _kind(value) not in ("int", "float"):
            continue
        form = shown(cell) if isinstance(cell, str) else str(cell)
        other_row, other = first.setdefault(value, (row, form))
        if other != form:
            raise BadInput(
                f"{what} must have one form of each number, got {quote(other)} in row {other_row} "
                f"and {quote(form)} in row {row}"
            )


def meant(cells: Collection[Any]) -> Collection[Any]:
    """Return cells of a file without types as numbers, where each is written as one, or as such.

    None stands for a blank one among numbers.
    """
    said = [cell.strip() if isinstance(cell, str) else "" for cell in cells]
    if any(said) and all(NUMBER.fullmatch(cell) for cell in said if cell):
        return [_as_whole(Decimal(cell)) if cell else None for cell in said]
    return cells


def kinds(values: Iterable[Any]) -> set[str]:
    """Return the names of the values' types; "blank" for none, NaN and white space."""
    return {_kind(value) for value in values}


def _kind(value: object) -> str:
    if blank(value):
        return "blank"
    return "float" if isinstance(value, Decimal) else type(value).__name__


def _as_whole(value: Any) -> Any:
    """Return a float that is a whole number as one: labels are often kept as 0.0 and 1.0."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Decimal):
        sound = value.is_finite() and value.adjusted() < DIGITS
        return int(value) if sound and value == value.to_integral_value() else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def blank(value: object) -> bool:
    """Return whether a cell says nothing: white space, none, NaN."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
