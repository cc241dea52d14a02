"""What a person sees: progress while it works, then the table and the texts side by side."""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.text import Text

from fedsim.lab.display import Display
from fedsim.lab.scoring.scored import Scored
from fedsim.lab.store import layout
from fedsim.lab.store.attempts import AttackRecord
from fedsim.lab.store.figures import COUNTED, COUNTS, VERDICT_METRIC
from fedsim.lab.store.records import whose
from fedsim.lab.store.summary import Course, Entry, Summary, Utility
from fedsim.lab.terminal.marks import marked
from fedsim.models import ModelAdapter
from fedsim.printing import printable
from fedsim.types import Tokens

SHOWN = 8  # pairs of texts; all of them are in samples.jsonl
PAUSE = 10.0  # seconds between lines of progress where no terminal can redraw one
STYLES = {"leak": "bold red", "no-leak": "bold green", "inconclusive": "bold yellow"}


class Terminal:
    """Progress on stderr, so that stdout stays for results; ``redact``: without anybody's text."""

    def __init__(self, *, quiet: bool = False, redact: bool = False) -> None:
        self.redact = redact
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._status: Status | None = None
        self._last = 0.0

    def __enter__(self) -> "Terminal":
        if self.console.is_terminal:
            self._status = self.console.status("starting")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(escape(printable(line)), soft_wrap=True)

    def step(self, line: str) -> None:
        """Show what is being done now: redrawn in place, or now and then a line in a log file."""
        if self._status is not None:
            self._status.update(escape(printable(line)))
        elif time.monotonic() - self._last > PAUSE:
            self._last = time.monotonic()
            self.console.print(escape(printable(line)))


class StepHandler(logging.Handler):
    """Shows what the attacks log as progress."""

    def __init__(self, display: Display) -> None:
        super().__init__(logging.INFO)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record's message."""
        self._display.step(record.getMessage())


def print_table(summary: Summary) -> None:
    """Print one row for each attacked update, and each attack's verdict with its reason."""
    console = Console(file=sys.stdout, highlight=False)
    asked = [entry for entry in summary.attacks if entry.candidates]
    rest = [entry for entry in summary.attacks if not entry.candidates]
    if read := [entry for entry in rest if entry.reads == "texts"]:
        console.print(_read(read))
    if whole := [entry for entry in rest if entry.reads != "texts"]:
        console.print(counted(whole))
    if asked:
        console.print(recognised(asked))
    _print_words(console, summary)


def _print_words(console: Console, summary: Summary) -> None:
    """Print the notes and the verdicts."""
    for note in summary.notes:
        console.print(escape(printable(f"Note: {note}")))
    for name, judged in summary.verdicts.items():
        style = STYLES[judged.verdict]
        console.print(
            f"[{style}]{escape(printable(name))}: {judged.verdict}[/]. "
            f"{escape(printable(judged.reason))}",
            soft_wrap=True,
        )
    if summary.verdicts:
        whole = summary.overall
        console.print(
            f"[{STYLES[whole.verdict]}]The run: {whole.verdict}[/]. "
            f"{escape(printable(whole.reason))}",
            soft_wrap=True,
        )


def _read(entries: Sequence[Entry]) -> Table:
    """Return the table of what was read."""
    columns = ["round", "client", "attack", "n", "exact", "prec", "tok.", "R-1", "chance", "s"]
    if bounded := any(entry.bound for entry in entries):
        columns.insert(5, "limit")  # of exact: the reconstruction bound
    table = Table(*columns, title="What the server could read", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("verdict", no_wrap=True, min_width=len("inconclusive"))
    for entry in entries:
        metrics, chance = entry.metrics, entry.controls.get("no_gradient", {})
        exact = metrics.get("exact_match_but_last", metrics.get("exact_match"))
        precision = metrics.get("precision_but_last", metrics.get("precision"))
        accuracy = metrics.get("token_accuracy_but_last", metrics.get("token_accuracy"))
        most = [_number(entry.bound.get("exact_match"), 2)] if bounded else []
        table.add_row(
            str(entry.round),
            f"sum of {len(entry.clients)}"
            if entry.clients
            else escape(printable(str(entry.client))),
            escape(printable(entry.attack)),
            str(entry.samples or "?"),
            _number(exact, 2),
            *most,
            _number(precision, 2),
            _number(accuracy, 2),
            _number(metrics.get("rouge1"), 1),
            _number(chance.get("rouge1"), 1),
            f"{entry.seconds:.1f}",
            Text(entry.verdict, style=STYLES[entry.verdict]),
        )
    return table


def recognised(entries: Sequence[Entry]) -> Table:
    """Return the table of who was recognised."""
    columns = ["round", "client", "attack", "AUC", "in", "out", "other", "own", "s"]
    title = "Who was recognised (of members, outsiders, others, its own: called members)"
    table = Table(*columns, title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("verdict", no_wrap=True, min_width=len("inconclusive"))
    for entry in entries:
        beside = [entry.controls.get(name, {}).get("tpr") for name in ("other_update", "positive")]
        table.add_row(
            str(entry.round),
            escape(printable(str(whose(entry)))),
            escape(printable(entry.attack)),
            *(_number(entry.metrics.get(name), 2) for name in ("auc", "tpr", "fpr")),
            *(_number(value, 2) for value in beside),
            f"{entry.seconds:.1f}",
            Text(entry.verdict, style=STYLES[entry.verdict]),
        )
    return table


def counted(entries: Sequence[Entry]) -> Table:
    """Return the table of what is in the batches, in no order."""
    columns = ["round", "client", "attack", "says", "right", "found", "F1", "chance", "own", "s"]
    title = "What was in the batches, in no order"
    table = Table(*columns, title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("verdict", no_wrap=True, min_width=len("inconclusive"))
    for entry in entries:
        beside = [entry.controls.get(name, {}).get(COUNTED) for name in ("no_gradient", "positive")]
        table.add_row(
            str(entry.round),
            escape(printable(str(whose(entry)))),
            escape(printable(entry.attack)),
            entry.reads,
            *(_number(entry.metrics.get(name), 2) for name in COUNTS),
            *(_number(value, 2) for value in beside),
            f"{entry.seconds:.1f}",
            Text(entry.verdict, style=STYLES[entry.verdict]),
        )
    return table


def print_summary(summary: Summary, scores: Sequence[Scored], texts: "SideBySide | None") -> None:
    """Print the texts side by side, the worst first, then the table and the verdicts.

    ``texts``: prints them; None: they are left out, and ``summary`` quotes none.
    """
    if texts is not None:
        _print_texts(scores, texts)
    if summary.attacks:
        print_table(summary)
    if summary.utility:
        print_utility(summary.utility)
    if summary.wire:
        print_wire(summary.wire)


def _print_texts(scores: Sequence[Scored], texts: "SideBySide") -> None:
    ranked = sorted(scores, key=lambda scored: -fmean(scored.values(VERDICT_METRIC) or [0.0]))
    pairs = [(pair.truth, pair.guess) for scored in ranked for pair in scored.pairs]
    if pairs:
        texts.print(pairs)
    for scored in scores:
        if not scored.pairs and not scored.answers and not scored.counted:
            texts.print_guesses(scored.attempt)


def print_wire(wire: Mapping[str, Any]) -> None:
    """Print what an update takes, in bytes as its encoding would be and in the client's time."""
    if not wire.keys() >= {"bytes_up", "bits_per_entry", "seconds"}:
        return  # somebody took them out
    line = (
        f"An update: {wire['bytes_up'] / 1e6:.3g} MB up ({wire['bits_per_entry']:.3g} bits an "
        f"entry), {wire['seconds']:.2f} s of the client"
    )
    Console(file=sys.stdout, highlight=False).print(line, soft_wrap=True)


def print_utility(utility: Utility) -> None:
    """Print each metric of the global model, before the first round and after the last."""
    measured: dict[str, Utility | Course] = {utility.metric: utility, **utility.others}
    parts = [
        f"{name} {metric.before:.3f} -> {metric.after:.3f}" for name, metric in measured.items()
    ]
    line = f"Utility, before the first round -> after the last: {', '.join(parts)}"
    Console(file=sys.stdout, highlight=False).print(line, soft_wrap=True)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


class SideBySide:
    """Prints true and reconstructed texts, what was read marked in both."""

    HEADERS: ClassVar = ("", "what the client had", "what the server read")

    def __init__(self, adapter: ModelAdapter) -> None:
        self._tokenizer = adapter.tokenizer

    def print(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> None:
        """Print ``pairs`` of (truth, guess)."""
        table = Table(show_lines=True)
        for header in self.HEADERS:
            table.add_column(header, overflow="fold")
        for truth, guess in pairs[:SHOWN]:
            left, right = self._marked(truth, guess)
            mark = Text("=", "green") if truth == guess else Text("~" if guess else "-", "red")
            table.add_row(mark, left, right)
        console = Console(file=sys.stdout, highlight=False)
        console.print(table)
        if len(pairs) > SHOWN:
            console.print(f"... and {len(pairs) - SHOWN} more in {layout.SAMPLES}")

    def print_guesses(self, attempt: AttackRecord) -> None:
        """Print what was read of an update whose truth nobody here knows."""
        console = Console(file=sys.stdout, highlight=False)
        place = f"Round {attempt.round}, client {whose(attempt)}"
        console.print(Text(f"{place}: what the server read (truth unknown)", "bold"))
        for text in attempt.texts[:SHOWN] or ["nothing"]:
            console.print(f"  {escape(printable(text))}", soft_wrap=True)

    def _marked(self, truth: Tokens, guess: Tokens) -> tuple[Text, Text]:
        """Return both texts: equal tokens green, others underlined or struck out in red."""
        left, right = Text(), Text()
        ours, theirs = marked(self._tokenizer, truth, guess)
        for piece in ours:
            left.append(printable(piece.text), style="green" if piece.matched else "underline")
        for piece in theirs:
            right.append(printable(piece.text), style="green" if piece.matched else "red strike")
        return left, right
