"""The results of a run, read back: checked, so that a broken file is one line and not a traceback.

What a summary.json says beyond these fields is kept in ``model_extra``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedsim.errors import BadInput, MalformedMessage
from fedsim.files import read_json
from fedsim.lab.scoring.intervals import Interval
from fedsim.lab.scoring.verdict import Verdict

R = TypeVar("R", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class Entry(_Record):
    """One attack on one client's update, as summary.json has it."""

    attack: str
    round: int
    client: int | str | None
    clients: list[int | str | None] = []  # several: their sum was attacked
    samples: int
    seconds: float
    verdict: Verdict
    metrics: dict[str, float]
    controls: dict[str, dict[str, float]]
    settings: dict[str, Any] = {}
    knowledge: dict[str, Any] = {}
    reason: str = ""
    error: str | None = None
    bound: dict[str, Any] = {}  # what a perfect attack could read at most, by metric


class Word(_Record):
    """The verdict over all updates that one attack was run on."""

    verdict: Verdict
    reason: str = ""
    updates: int = 0
    samples: int = 0


class Utility(_Record):
    """How good the model is, on held-out text, before the first round and after each."""

    metric: str
    before: float
    after: float
    per_round: list[float] = []
    others: dict[str, dict[str, Any]] = {}  # the same of other metrics, by name

    def figures(self) -> dict[str, float]:
        """Return every figure of the model after the last round, by its metric's name."""
        return {self.metric: self.after, **{k: one["after"] for k, one in self.others.items()}}


class Summary(_Record):
    """A finished run's summary.json."""

    schema_: Literal[1] = Field(alias="schema")
    name: str
    seed: int
    attacks: list[Entry]
    leakage: dict[str, dict[str, Interval]]
    verdicts: dict[str, Word]
    rounds: int = 0
    seconds: float = 0.0
    engine: str = ""
    utility: Utility | None = None
    guarantee: dict[str, Any] | None = None
    bound: Any = None
    wire: Any = None
    failures: list[dict[str, Any]] = []
    notes: list[str] = []


class SweepCell(_Record):
    """One cell as sweep.json has it."""

    name: str = Field(pattern=r"^[A-Za-z0-9._=,+-]+$")  # also its directory
    settings: dict[str, Any]
    status: Literal["waiting", "running", "done", "failed"]
    config: dict[str, Any]
    error: str | None = None
    seconds: float = 0.0
    working: float = 0.0


class Sweep(_Record):
    """A sweep's sweep.json, as far as a report needs it."""

    schema_: Literal[1] = Field(alias="schema")
    name: str
    axes: dict[str, list[Any]]
    cells: Sequence[SweepCell]
    words: list[str] = []
    base: dict[str, Any] = {}


class BegunCell(SweepCell):
    """One cell of a sweep that is to go on."""

    training: str


class BegunSweep(Sweep):
    """All that it takes to go on with a sweep."""

    cells: Sequence[BegunCell]
    words: list[str]
    base: dict[str, Any]
    quick: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep, or a run that is in none (``name`` is then "").

    Attributes:
        summary: None where there are no results, and ``error`` says why.
        settings: swept key -> value.
    """

    name: str
    root: Path
    summary: Summary | None
    error: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


def is_sweep(directory: Path) -> bool:
    """Return whether ``directory`` holds a sweep."""
    return (directory / "sweep.json").exists()


def read_cells(directory: Path) -> list[Cell]:
    """Return the cells of a sweep, or the one run that ``directory`` holds.

    Raises:
        BadInput: there is neither, or a file does not say what it must.
    """
    if not is_sweep(directory):
        return [Cell(name="", root=directory, summary=read_results(directory))]
    return [_cell(directory, one) for one in read_sweep(directory).cells]


def read_sweep(directory: Path) -> Sweep:
    """Return what sweep.json says.

    Raises:
        BadInput: it does not say what it must.
    """
    return read_checked(directory / "sweep.json", Sweep)


def _cell(directory: Path, one: SweepCell) -> Cell:
    root = directory / "cells" / one.name
    done = one.status == "done"
    return Cell(
        name=one.name,
        root=root,
        summary=read_results(root) if done else None,
        error=None if done else one.error or "it is not finished",
        settings=one.settings,
        seed=one.config.get("seed", 0),
    )


def read_results(directory: Path) -> Summary:
    """Return what a finished run found.

    Raises:
        BadInput: there is no finished run, or its summary.json does not say what it must.
    """
    path = directory / "summary.json"
    if not path.exists():
        raise BadInput(_absent(directory))
    return read_checked(path, Summary)


def read_checked(path: Path, kind: type[R]) -> R:
    """Return the JSON in ``path`` as a record of ``kind``; the first error as one BadInput."""
    try:
        return kind.model_validate(read_json(path))
    except MalformedMessage as error:
        raise BadInput(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        wanted = first["msg"].removeprefix("Input should be ")
        got = str(first["input"])[:60]
        raise BadInput(f"{path}: {place}: wanted {wanted}, got {got!r}") from error


def _absent(directory: Path) -> str:
    if not directory.is_dir():
        return f"{str(directory)!r} is not a directory; wanted a run or a sweep"
    if (directory / "config.toml").exists():
        return (
            f"{str(directory)!r} holds a run that is not finished (no summary.json); go on with "
            f"it: fedsim run --out {directory} --resume"
        )
    return f"{str(directory)!r} holds neither a run nor a sweep (no summary.json, no sweep.json)"
