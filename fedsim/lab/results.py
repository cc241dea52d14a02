"""The results of a run, read back: checked, so that a broken file is one line and not a traceback.

What a summary.json says beyond these fields is kept in ``model_extra``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedsim.errors import BadInput, MalformedMessage
from fedsim.files import read_json
from fedsim.lab.intervals import Interval
from fedsim.lab.verdict import Verdict


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class Entry(_Record):
    """One attack on one client's update, as summary.json has it."""

    attack: str
    round: int
    client: int | str | None
    samples: int
    seconds: float
    verdict: Verdict
    metrics: dict[str, float]
    controls: dict[str, dict[str, float]]
    settings: dict[str, Any] = {}
    knowledge: dict[str, Any] = {}
    reason: str = ""
    error: str | None = None


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

    def figures(self) -> dict[str, float]:
        """Return every figure of the model after the last round, by its metric's name."""
        more = {k: v for k, v in (self.model_extra or {}).items() if isinstance(v, int | float)}
        return {**more, self.metric: self.after}


class Summary(_Record):
    """A finished run's summary.json."""

    schema_: Literal[1] = 1
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
    bytes_up: Any = None
    wire: Any = None
    failures: list[dict[str, Any]] = []
    notes: list[str] = []


def read_results(directory: Path) -> Summary:
    """Return what a finished run found.

    Raises:
        BadInput: there is no finished run, or its summary.json does not say what it must.
    """
    path = directory / "summary.json"
    if not path.exists():
        raise BadInput(_absent(directory))
    try:
        content = read_json(path)
    except MalformedMessage as error:
        raise BadInput(str(error)) from error
    if not isinstance(content, dict) or content.get("schema") != 1:
        got = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise BadInput(f"{path}: wanted a summary with schema = 1, got {got!r}")
    try:
        return Summary.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        wanted = first["msg"].removeprefix("Input should be ")
        raise BadInput(
            f"{path}: {place}: wanted {wanted}, got {str(first['input'])[:60]!r}"
        ) from error


def _absent(directory: Path) -> str:
    if not directory.is_dir():
        return f"{str(directory)!r} is not a directory; wanted a run or a sweep"
    if (directory / "config.toml").exists():
        return (
            f"{str(directory)!r} holds a run that is not finished (no summary.json); go on with "
            f"it: fedsim run --out {directory} --resume"
        )
    return f"{str(directory)!r} holds neither a run nor a sweep (no summary.json, no sweep.json)"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep, or a run that is in none (``name`` is then "")."""

    name: str
    root: Path
    summary: Summary | None
    error: str | None = None


def read_cells(directory: Path) -> list[Cell]:
    return [Cell(name="", root=directory, summary=read_results(directory))]
