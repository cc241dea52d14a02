"""Records: what a file of results says, checked, so that a broken file is one line of error."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedsim.errors import BadInput, MalformedMessage
from fedsim.files import read_json

Client = int | str | None
R = TypeVar("R", bound="FileRecord")


class FileRecord(BaseModel):
    """A part of a file: its fields in the file's order, of which it may leave some out."""

    model_config = ConfigDict(frozen=True)

    def as_dict(self) -> dict[str, Any]:
        """Return what the file says: the fields that were set, by the file's names."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class OfClients(Protocol):
    """What is about one client's update, or about the sum of several."""

    @property
    def client(self) -> Client:
        """The client; the first of several."""

    @property
    def clients(self) -> Sequence[Client]:
        """The clients whose sum it is; none: ``client`` alone."""


class OfAttack(OfClients, Protocol):
    """What is about one attack on one update."""

    @property
    def attack(self) -> str:
        """Its name."""

    @property
    def round(self) -> int:
        """Of the update."""


def clients_of(record: OfClients) -> list[Client]:
    """Return the clients whose update a record is about; several: their sum."""
    return list(record.clients or [record.client])


def whose(record: OfClients) -> Client:
    """Return the client whose update it is, or ``sum of 0, 1, 2``."""
    clients = clients_of(record)
    return clients[0] if len(clients) == 1 else f"sum of {', '.join(map(str, clients))}"


def read_record(path: Path, kind: type[R]) -> R:
    """Return the JSON in ``path`` as a record of ``kind``.

    Raises:
        BadInput: it is missing, no JSON, or does not say what it must; the first of its errors.
    """
    try:
        return kind.model_validate(read_json(path))
    except MalformedMessage as error:
        raise BadInput(str(error)) from error
    except ValidationError as error:
        raise BadInput(f"{path}: {first_error(error)}") from error


def checked_rows(path: Path, rows: Iterable[Any], kind: type[R]) -> list[R]:
    """Return the lines of ``path`` as records of ``kind``.

    Raises:
        MalformedMessage: a line does not say what it must; the first of its errors.
    """
    records = []
    for number, row in enumerate(rows, start=1):
        try:
            records.append(kind.model_validate(row))
        except ValidationError as error:
            raise MalformedMessage(f"{path}, line {number}: {first_error(error)}") from error
    return records


def check_fit(path: Path, records: Sequence[OfAttack], wanted: Sequence[OfAttack]) -> None:
    """Check that the lines of ``path`` are about the updates that summary.json is about.

    Raises:
        MalformedMessage: they are not.
    """
    ours, theirs = (
        [(record.attack, record.round, record.client) for record in side]
        for side in (records, wanted)
    )
    if ours == theirs:
        return
    what = f"{path.name} has {len(ours)} lines, and summary.json speaks of {len(theirs)}"
    if len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True), start=1)
        line, (our, their) = next((line, pair) for line, pair in pairs if pair[0] != pair[1])
        named = ("{} in round {} of client {}".format(*update) for update in (our, their))
        what = "{}, line {} is {}, in summary.json it is {}".format(path.name, line, *named)
    raise MalformedMessage(f"{path.parent}: its files do not fit together: {what}; run it again")


def first_error(error: ValidationError) -> str:
    """Return what is wrong first: where, what was wanted, what came."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "all of it"
    wanted = first["msg"].removeprefix("Input should be ")
    return f"{place}: wanted {wanted}, got {str(first['input'])[:60]!r}"
