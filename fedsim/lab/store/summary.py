"""summary.json: what a run or an attack showed, as it is built, written and read."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from fedsim.errors import BadInput
from fedsim.lab.store import layout
from fedsim.lab.store.figures import PRECISION, ROUGES, Interval, Verdict
from fedsim.lab.store.records import Client
from fedsim.records import Count, FileRecord, Round, Seconds, read_record
from fedsim.types import Reads

Leakage = dict[str, dict[str, Interval]]
"""By attack and metric: the mean over all samples that have it; of precision, over all guesses."""


class Entry(FileRecord):
    """One attack on one client's update."""

    attack: str
    settings: dict[str, Any] = {}
    knowledge: dict[str, Any] = {}
    round: Round
    client: Client
    clients: list[Client] = []  # several: their sum was attacked
    samples: Count  # 0: no truth is known
    reads: Reads = "texts"  # what the attack says; of others than texts there are no samples
    candidates: Count = 0  # that it was asked about, in place of reading samples
    wordless: Count = 0  # of these, texts without a word: no ROUGE is of them
    guesses: Count | None = None  # that the attack made; None: a file of before they were counted
    seconds: Seconds
    verdict: Verdict
    reason: str = ""
    metrics: dict[str, float]  # means over the samples that have it; of precision, the guesses
    controls: dict[str, dict[str, float]]  # by control and metric
    diagnostics: dict[str, Any] = {}
    error: str | None = None
    bound: dict[str, float] = {}  # what a perfect attack could read at most, by metric

    def count(self, metric: str) -> int:
        """Return how many values the mean of ``metric`` is over."""
        if metric in PRECISION and self.guesses is not None:
            return self.guesses
        return self.samples - (self.wordless if metric in ROUGES else 0)


class Judgement(FileRecord):
    """The verdict over all updates that one attack was run on."""

    verdict: Verdict
    reason: str = ""
    updates: Count = 0
    samples: Count = 0
    silent: dict[str, Count] = {}  # by metric: samples of which it says nothing, read or not


class RunVerdict(FileRecord):
    """The verdict over all attacks: ``no-leak`` only of each kind that applies, each one working.

    See :mod:`fedsim.lab.scoring.earned`.
    """

    verdict: Verdict
    reason: str = ""
    tried: list[str] = []  # kinds of attacks
    missing: list[str] = []  # kinds that apply and of which none worked and found nothing


class Course(FileRecord):
    """One figure of the model on held-out text: before the first round, after each."""

    before: float
    after: float
    per_round: list[float] = []


class Utility(FileRecord):
    """How good the model is, by the task's own metric and by others."""

    metric: str
    before: float
    after: float
    per_round: list[float] = []
    others: dict[str, Course] = {}

    def figures(self) -> dict[str, float]:
        """Return every figure of the model after the last round, by its metric's name."""
        return {self.metric: self.after, **{k: course.after for k, course in self.others.items()}}


class Failure(FileRecord):
    """A client that did not answer in a round."""

    round: Round
    client: Client
    error: str


class Summary(FileRecord):
    """All of it; an attack on captures has no rounds of its own, and leaves out what is theirs."""

    schema_: Literal[1] = Field(alias="schema")
    name: str
    seed: int
    engine: str = ""
    rounds: Round = 0
    seconds: Seconds = 0.0  # of all rounds
    scoring: dict[str, Seconds] = {}
    utility: Utility | None = None  # None: not measured
    guarantee: dict[str, Any] | None = None  # of a defenses.base.Guarantee, and "secret"
    wire: dict[str, Any] = {}  # what an update took, and what each defense did to it
    attacks: list[Entry]
    leakage: Leakage
    verdicts: dict[str, Judgement]  # by attack
    verdict: RunVerdict | None = None  # of all; None: a file of before it was said
    failures: list[Failure] = []
    checksum: str = ""  # of the last weights
    notes: list[str] = []

    @field_validator("wire")
    @classmethod
    def _measured(cls, wire: dict[str, Any]) -> dict[str, Any]:
        figures = {name: value for name, value in wire.items() if name != "defenses"}
        defenses = wire.get("defenses", [])
        if not all(isinstance(value, int | float) for value in figures.values()):
            raise ValueError("numbers but for defenses")
        if not isinstance(defenses, list) or not all(isinstance(one, dict) for one in defenses):
            raise ValueError("a list of tables as defenses")
        return wire

    @property
    def overall(self) -> RunVerdict:
        """The run's verdict; of a file of before it was said, a leak or none."""
        if self.verdict is not None:
            return self.verdict
        leaks = any(judged.verdict == "leak" for judged in self.verdicts.values())
        if leaks:
            return RunVerdict(verdict="leak")
        return RunVerdict(
            verdict="inconclusive",
            reason="An earlier version wrote this, which did not say whether each kind of attack "
            "was tried; run or attack it again.",
        )

    @property
    def epsilon(self) -> float | None:
        """What the guarantee says, or None."""
        value = (self.guarantee or {}).get("epsilon")
        return value if isinstance(value, int | float) else None


def read_summary(directory: Path) -> Summary:
    """Return what a finished run found.

    Raises:
        BadInput: there is no finished run, or its summary.json does not say what it must.
    """
    if not layout.is_finished(directory):
        raise BadInput(_absent(directory))
    return read_record(directory / layout.SUMMARY, Summary)


def _absent(directory: Path) -> str:
    if not directory.is_dir():
        return f"{str(directory)!r} is not a directory; wanted a run or a sweep"
    if layout.is_run(directory):
        return (
            f"{str(directory)!r} holds a run that is not finished (no {layout.SUMMARY}); go on "
            f"with it: fedsim run --out {directory} --resume"
        )
    wanted = f"no {layout.SUMMARY}, no {layout.SWEEP}"
    return f"{str(directory)!r} holds neither a run nor a sweep ({wanted})"
