"""The parts that a run's page and a sweep's have in common: texts, personal data, controls."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fedsim.files import read_lines
from fedsim.lab.report.page import Sample, Section, Table
from fedsim.lab.report.personal_data import Recall, Update, recalls
from fedsim.lab.report.words import CONTROLS, PRIVATE
from fedsim.lab.scoring.verdict import VERDICT_METRIC
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import adapter_of, sample_rows, whose
from fedsim.lab.store.summary import Entry
from fedsim.lab.sweep.cells import SAMPLES
from fedsim.lab.terminal.marks import marked

SHOWN = 1000  # samples with their texts on the page
CHARACTERS = 1_200_000  # of all texts together: the page must open on a telephone
TEXTS = ("truth", "guess", "truth_tokens", "guess_tokens")
OWN_WORDS = ("error", "reason")  # of an attack: they might quote what it read

Row = Mapping[str, Any]


def read_samples(run: RunDirectory) -> list[Row]:
    """Return a run's samples, of a sweep's cell as they were noted."""
    kept = run.root / SAMPLES
    return list(read_lines(kept)) if kept.exists() else list(sample_rows(run))


def worst_first(rows: Sequence[Row]) -> list[Row]:
    """Return the samples by what was read of them: whole ones first, long ones before short."""

    def badness(row: Row) -> tuple[float, ...]:
        return (-row["exact_match"], -row[VERDICT_METRIC], -len(row["truth_tokens"]))

    return sorted(rows, key=badness)


def texts(rows: Sequence[Row], run: RunDirectory, *, redact: bool) -> list[Sample]:
    """Return the first of ``rows`` for the page, as many as it can hold."""
    tokenizer = None if redact else adapter_of(run).tokenizer
    room, samples = CHARACTERS, []
    for row in rows[:SHOWN]:
        room -= len(row["truth"]) + len(row["guess"])
        if room < 0:
            break
        ours, theirs = (
            ([], [])
            if redact
            else marked(tokenizer, tuple(row["truth_tokens"]), tuple(row["guess_tokens"]))
        )
        samples.append(
            Sample(
                place=f"{row['attack']}, round {row['round']}, client {whose(row)}",
                exact=row["exact_match"] == 1.0,
                overlap=row[VERDICT_METRIC],
                accuracy=row["token_accuracy"],
                chance=row.get(f"control_no_gradient_{VERDICT_METRIC}"),
                truth=ours,
                guess=theirs,
            )
        )
    return samples


def texts_section(
    samples: Sequence[Sample], rows: Sequence[Row], *, redact: bool, once: bool = False
) -> Section:
    """Return the section of the texts; ``rows`` are all that there are, the worst first.

    Args:
        samples: those to show.
        rows: all.
        redact: whether the texts were left out.
        once: each text is shown only where most of it was read.
    """
    notes = [
        "The texts were left out of this report; the figures are those of the whole of it."
        if redact
        else "Marked: tokens that both texts have, in the same order. Struck out: tokens that the "
        "attack made up or misplaced."
    ]
    left = len(rows) - len(samples)
    if left:
        which = "readings of these or other texts" if once else "samples, less read than these,"
        notes.append(f"{left:,} more {which} are in report/samples.csv.")
    return Section(
        anchor="texts",
        title="What the server read, the worst first",
        words=notes if samples else ["There is nothing to compare."],
        samples=samples,
    )


def samples_file(rows: Sequence[Row], *, redact: bool) -> Table:
    """Return all samples as a table for a csv file."""
    columns = list(dict.fromkeys(key for row in rows for key in row))  # tasks differ in metrics
    if redact:
        columns = [key for key in columns if key not in (*TEXTS, *OWN_WORDS)]
    values = [[_plain(row.get(key)) for key in columns] for row in rows]
    return Table(name="samples", caption="", columns=columns, rows=values)


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def private(attack: str, rows: Sequence[Row], guessed: Sequence[Row]) -> Table:
    """Return the recall of personal data by kind.

    Args:
        attack: whose.
        rows: its samples.
        guessed: lines of reconstructions.jsonl: with the guesses that match no sample.
    """
    truths: dict[tuple[Any, Any], list[str]] = {}
    for row in rows:
        if row["attack"] == attack:
            truths.setdefault((row["round"], row["client"]), []).append(row["truth"])
    emitted = {
        (row["round"], row["client"]): row["texts"]
        for row in guessed
        if row["attack"] == attack and row["role"] == "attack"
    }
    updates = [
        Update(client=place[1], truths=some, guesses=emitted.get(place, []))
        for place, some in truths.items()
    ]
    return Table(
        name=f"personal-data-{attack}",
        caption=f"{attack}: personal data in the clients' texts",
        columns=["kind", "in the texts", "read", "share read", "by chance", "put out", "invented"],
        rows=[_recall_row(one) for one in recalls(updates)],
    )


def _recall_row(one: Recall) -> list[Any]:
    return [
        one.kind,
        one.there,
        one.read,
        one.read / one.there if one.there else None,
        one.chance / one.there if one.there and one.chance is not None else None,
        one.emitted,
        one.invented / one.emitted if one.emitted else None,
    ]


def private_section(tables: Sequence[Table]) -> Section:
    """Return the section on personal data."""
    return Section(anchor="personal", title="Personal data", words=[PRIVATE], tables=tables)


def controls(attack: str, entries: Sequence[Entry]) -> Table:
    """Return each metric of ``attack`` beside its controls, means over the samples."""
    scored = [one for one in entries if one.attack == attack and one.samples]
    names = list(dict.fromkeys(name for one in scored for name in one.controls))
    found = dict.fromkeys(name for one in scored for name in one.metrics)  # tasks differ
    metrics = [name for name in found if name != "precision"]
    rows = [
        [metric, _mean(metric, [(one.samples, one.metrics) for one in scored])]
        + [
            _mean(metric, [(o.samples, o.controls[name]) for o in scored if name in o.controls])
            for name in names
        ]
        for metric in metrics
    ]
    return Table(
        name=f"controls-{attack}",
        caption=f"{attack}: scores beside its controls",
        columns=["metric", attack, *(name.replace("_", " ") for name in names)],
        rows=rows,
    )


def controls_section(tables: Sequence[Table]) -> Section:
    """Return the section on controls."""
    return Section(anchor="controls", title="Controls", words=[CONTROLS], tables=tables)


def _mean(metric: str, values: Sequence[tuple[int, Mapping[str, float]]]) -> float | None:
    """Return the mean over samples; a control of no_gradient has every metric but the last ones."""
    known = [(count, one[metric]) for count, one in values if metric in one]
    if not known:
        return None
    return fmean([value for _, value in known], weights=[count for count, _ in known])
