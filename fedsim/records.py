"""Records: what a file on disk must say, checked, so that a broken file is one line of error."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedsim import limits
from fedsim.errors import MalformedFile, quote
from fedsim.files import read_json

Round = Annotated[int, Field(ge=0, le=limits.ROUND)]
Client = Annotated[int, Field(ge=0, le=limits.CLIENT)]
TokenIds = Annotated[
    list[Annotated[int, Field(ge=0, le=limits.TOKEN)]], Field(max_length=limits.TOKENS)
]
Count = Annotated[int, Field(ge=0, le=limits.INTEGER)]
Seconds = Annotated[float, Field(ge=0)]
R = TypeVar("R", bound="FileRecord")
SHOWN = 60  # characters of what came


class FileRecord(BaseModel):
    """A part of a file: its fields in the file's order, of which it may leave some out."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    def as_dict(self) -> dict[str, Any]:
        """Return what the file says: the fields that were set, by the file's names."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def read_record(path: Path, kind: type[R]) -> R:
    """Return the JSON in ``path`` as a record of ``kind``.

    Raises:
        MalformedFile: it is missing, no JSON, or does not say what it must: its first error.
    """
    return checked_record(str(path), read_json(path), kind)


def checked_record(place: str, value: Any, kind: type[R]) -> R:
    """Return ``value`` as a record of ``kind``.

    Raises:
        MalformedFile: it does not say what it must; the line begins with ``place``.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise MalformedFile(f"{place}: {first_error(error, private=True)}") from error


def checked_rows(path: Path, rows: Iterable[Any], kind: type[R]) -> list[R]:
    """Return the lines of ``path`` as records of ``kind``.

    Raises:
        MalformedFile: a line does not say what it must; the first of its errors.
    """
    return [
        checked_record(f"{path}, line {number}", row, kind)
        for number, row in enumerate(rows, start=1)
    ]


def first_error(error: ValidationError, *, private: bool = False) -> str:
    """Return what is wrong first: where, what was wanted, what came; ``private`` marks a text."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "all of it"
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    got = repr(str(first["input"])[:SHOWN])
    number = isinstance(first["input"], int | float)
    return f"{place}: wanted {wanted}, got {quote(got) if private and not number else got}"
