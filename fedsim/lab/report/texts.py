"""Texts on the page: what the clients had, and what was read of it, the worst first."""

from collections.abc import Sequence
from typing import Any

from fedsim.lab.report.page import PageSection, ShownText, Table
from fedsim.lab.scoring.again import adapter_of
from fedsim.lab.store.records import whose
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import Sample
from fedsim.lab.terminal.marks import marked

SHOWN = 1000  # samples with their texts on the page
CHARACTERS = 1_200_000  # of all texts together: the page must open on a telephone
TEXTS = ("truth", "guess", "truth_tokens", "guess_tokens")
OWN_WORDS = ("error", "reason")  # of an attack: they might quote what it read


def badness(sample: Sample) -> tuple[float, ...]:
    """Return what samples are sorted by: whole ones first, long ones before short."""
    return (-sample.metrics["exact_match"], -sample.overlap, -len(sample.truth_tokens))


def shown_texts(samples: Sequence[Sample], run: RunDirectory, *, redact: bool) -> list[ShownText]:
    """Return the first of ``samples`` for the page, as many as it can hold."""
    tokenizer = None if redact else adapter_of(run).tokenizer
    room, texts = CHARACTERS, []
    for sample in samples[:SHOWN]:
        room -= len(sample.truth) + len(sample.guess)
        if room < 0:
            break
        truth, guess = tuple(sample.truth_tokens), tuple(sample.guess_tokens)
        ours, theirs = ([], []) if redact else marked(tokenizer, truth, guess)
        texts.append(
            ShownText(
                place=f"{sample.attack}, round {sample.round}, client {whose(sample)}",
                exact=sample.exact,
                overlap=sample.overlap,
                accuracy=sample.metrics["token_accuracy"],
                chance=sample.chance,
                truth=ours,
                guess=theirs,
            )
        )
    return texts


def texts_section(
    texts: Sequence[ShownText], total: int, *, redact: bool, once: bool = False
) -> PageSection:
    """Return the section of the texts.

    Args:
        texts: those to show, the worst first.
        total: how many samples there are.
        redact: whether the texts were left out.
        once: each text is shown only where most of it was read.
    """
    notes = [
        "The texts were left out of this report; the figures are those of the whole of it."
        if redact
        else "Marked: tokens that both texts have, in the same order. Struck out: tokens that the "
        "attack made up or misplaced."
    ]
    left = total - len(texts)
    if left:
        which = "readings of these or other texts" if once else "samples, less read than these,"
        notes.append(f"{left:,} more {which} are in report/samples.csv.")
    return PageSection(
        anchor="texts",
        title="What the server read, the worst first",
        words=notes if texts else ["There is nothing to compare."],
        texts=texts,
    )


def samples_file(rows: Sequence[dict[str, Any]], *, redact: bool) -> Table:
    """Return the lines of all samples as a table for a csv file."""
    columns = list(dict.fromkeys(key for row in rows for key in row))  # tasks differ in metrics
    if redact:
        columns = [key for key in columns if key not in (*TEXTS, *OWN_WORDS)]
    values = [[_plain(row.get(key)) for key in columns] for row in rows]
    return Table(name="samples", caption="", columns=columns, rows=values)


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
