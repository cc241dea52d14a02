"""sweep.json and cell.json: what a sweep's cells are, how each ended; and their results."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, Field, model_validator

from fedsim.files import write_json
from fedsim.lab.store import layout
from fedsim.lab.store.summary import Summary, read_summary
from fedsim.records import FileRecord, Seconds, read_record

Status = Literal["waiting", "running", "done", "failed"]


class CellEnd(FileRecord):
    """How a cell ended, as its cell.json has it, or how far it is."""

    status: Status
    error: str | None = None  # one line; None: it did not fail
    quotes: bool | None = None  # whether that may quote texts; None: nobody noted
    seconds: Seconds = 0.0  # in all
    working: Seconds = 0.0  # of these: training, evaluation, attacks, controls, their scores


def _toml(tree: dict[str, Any]) -> dict[str, Any]:
    """Check that TOML, which knows no null, can hold ``tree``."""
    try:
        tomli_w.dumps(tree)
    except (TypeError, ValueError) as error:
        raise ValueError(f"what TOML can hold: {error}") from error
    return tree


Tree = Annotated[dict[str, Any], AfterValidator(_toml)]


class CellRecord(FileRecord):
    """One cell as sweep.json has it."""

    # Also its directory, in that of the sweep.
    name: str = Field(pattern=r"^[A-Za-z0-9_=,+-][A-Za-z0-9._=,+-]*$", max_length=255)
    settings: dict[str, Any]  # swept key -> value
    training: str  # equal for cells that train alike
    status: Status
    error: str | None = None
    quotes: bool | None = None  # as in CellEnd
    seconds: Seconds = 0.0
    working: Seconds = 0.0
    config: Tree

    def ended(self, end: CellEnd) -> "CellRecord":
        """Return the record of the cell once it has ended so."""
        return self.model_copy(update=end.as_dict())


class SweepRecord(FileRecord):
    """A whole sweep."""

    schema_: Literal[1] = Field(alias="schema")
    name: str
    words: list[str]  # of the command line
    commands: list[str] = []  # that began it, and that made it grow; []: of before they were noted
    quick: bool  # without controls
    axes: dict[str, list[Any]]  # swept key -> its values
    seeds: list[int] = []
    secret: str | None = None  # what stands for the one that it was given, and does not tell it
    base: Tree  # the config's tables before the grid
    cells: list[CellRecord] = Field(min_length=1)

    @model_validator(mode="after")
    def _whole(self) -> "SweepRecord":
        names = [cell.name for cell in self.cells]
        if len(set(names)) < len(names):
            raise ValueError("cells with names of their own")
        for cell in self.cells:
            if missing := [key for key in self.axes if key not in cell.settings]:
                raise ValueError(f"a value of {missing[0]} in the cell {cell.name}")
            if type(cell.config.get("seed", 0)) is not int:
                raise ValueError(f"a whole number as seed in the config of the cell {cell.name}")
        return self


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The results of a run of a sweep, or of one that is in none (``name`` is then "").

    Attributes:
        summary: None where there are no results, and ``error`` says why.
        settings: swept key -> value.
    """

    name: str
    root: Path
    summary: Summary | None
    error: str | None = None
    quotes: bool | None = False  # whether that may quote texts; None: nobody noted
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


def read_sweep(directory: Path) -> SweepRecord:
    """Return what sweep.json says.

    Raises:
        BadInput: it does not say what it must.
    """
    return read_record(directory / layout.SWEEP, SweepRecord)


def write_sweep(directory: Path, sweep: SweepRecord) -> None:
    """Write sweep.json."""
    write_json(directory / layout.SWEEP, sweep.as_dict())


def cell_root(directory: Path, name: str) -> Path:
    """Return the run's directory of the cell ``name`` of a sweep."""
    return directory / layout.CELLS / name


def read_end(root: Path) -> CellEnd | None:
    """Return how the cell in ``root`` ended, or None where it did not come to that.

    Raises:
        BadInput: its cell.json does not say what it must.
    """
    path = root / layout.CELL
    return read_record(path, CellEnd) if path.exists() else None


def write_end(root: Path, end: CellEnd) -> None:
    """Write how the cell in ``root`` ended."""
    write_json(root / layout.CELL, end.as_dict())


def read_results(directory: Path) -> list[RunResult]:
    """Return the results of a sweep's cells, or those of the one run that ``directory`` holds.

    Raises:
        BadInput: there is neither, or a file does not say what it must.
    """
    if not layout.is_sweep(directory):
        return [RunResult(name="", root=directory, summary=read_summary(directory))]
    return [_result(directory, cell) for cell in read_sweep(directory).cells]


def _result(directory: Path, cell: CellRecord) -> RunResult:
    root = cell_root(directory, cell.name)
    done = cell.status == "done"
    return RunResult(
        name=cell.name,
        root=root,
        summary=read_summary(root) if done else None,
        error=None if done else cell.error or "it is not finished",
        quotes=cell.quotes if cell.error else False,
        settings=cell.settings,
        seed=cell.config.get("seed", 0),
    )
