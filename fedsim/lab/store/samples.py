"""samples.jsonl: a run sample by sample, scored once, beside the controls."""

from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from pydantic import InstanceOf, field_validator

from fedsim.errors import MalformedFile
from fedsim.files import read_lines, write_lines
from fedsim.lab.store import layout
from fedsim.lab.store.figures import VERDICT_METRIC, Verdict
from fedsim.lab.store.records import check_fit
from fedsim.lab.store.summary import Summary
from fedsim.records import Client, Count, FileRecord, Round, Seconds, TokenIds, checked_rows

CONTROL = "control_"  # before a control's figures, in a line
Text = InstanceOf[str]  # as it came: half of a surrogate pair is a client's text, too
ALWAYS = ("exact_match", "token_accuracy", VERDICT_METRIC)  # metrics that every sample has


class Sample(FileRecord):
    """One text of a client and what an attack read of it, special tokens dropped.

    In a line of the file every metric is a key of its own, and ``control_<control>_<metric>`` is.
    What is of the whole update stands in each of its samples.
    """

    attack: str
    round: Round
    client: Client
    clients: list[Client]  # whose update it is; several: their sum, and ``client`` the first
    sample: Count  # its place in what was attacked
    truth: Text
    guess: Text  # what was paired with it, one to one; "" and [] where nothing was
    truth_tokens: TokenIds
    guess_tokens: TokenIds
    metrics: dict[str, float]  # those of summary.json, as it defines them; ROUGE needs words
    guesses: Count | None = None  # made about the update; None: a file of before they were counted
    precision: float | None = None  # of these; None: there are none
    precision_but_last: float | None = None
    controls: dict[str, float]  # of the update, by <control>_<metric>
    verdict: Verdict  # of the update, as all that follows
    reason: str
    knowledge: dict[str, Any]
    settings: dict[str, Any]
    seconds: Seconds
    error: str | None

    @field_validator("metrics")
    @classmethod
    def _whole(cls, metrics: dict[str, float]) -> dict[str, float]:
        if missing := [name for name in ALWAYS if name not in metrics]:
            raise ValueError(f"a figure of {missing[0]}")
        return metrics

    @property
    def exact(self) -> bool:
        """Whether it was read word for word."""
        return self.metrics["exact_match"] == 1.0

    @property
    def overlap(self) -> float:
        """What verdicts compare."""
        return self.metrics[VERDICT_METRIC]

    @property
    def chance(self) -> float | None:
        """The same of the no-gradient control; None where it was not run."""
        return self.controls.get(f"no_gradient_{VERDICT_METRIC}")

    def as_row(self) -> dict[str, Any]:
        """Return the line of the file, flat: also a row of a table."""
        row: dict[str, Any] = {}
        for name, value in self.as_dict().items():
            if name == "controls":
                row |= {f"{CONTROL}{key}": figure for key, figure in value.items()}
            else:
                row |= value if name == "metrics" else {name: value}
        return row


def nested(row: Any) -> Any:
    """Return a line of the file as :class:`Sample` has it."""
    if not isinstance(row, dict):
        return row  # its check will say what is wrong
    known = {key: value for key, value in row.items() if key in Sample.model_fields}
    figures = {key: value for key, value in row.items() if key not in known}
    controls = {key: value for key, value in figures.items() if key.startswith(CONTROL)}
    return known | {
        "metrics": {key: value for key, value in figures.items() if key not in controls},
        "controls": {key.removeprefix(CONTROL): value for key, value in controls.items()},
    }


def write_samples(directory: Path, samples: Sequence[Sample]) -> None:
    """Write samples.jsonl."""
    write_lines(directory / layout.SAMPLES, (sample.as_row() for sample in samples))


def read_samples(directory: Path, summary: Summary) -> list[Sample]:
    """Return the samples of a finished run, in the order of its summary.

    Raises:
        MalformedFile: the file is missing or broken, or is not that of the summary.
    """
    path = directory / layout.SAMPLES
    if not path.exists():
        raise MalformedFile(f"{path} is missing, as in runs of before it was written")
    samples = checked_rows(path, map(nested, read_lines(path)), Sample)
    told = chain.from_iterable(repeat(entry, entry.samples) for entry in summary.attacks)
    check_fit(path, samples, told, sum(entry.samples for entry in summary.attacks))
    return samples
