"""What a page is made of: tables, texts, plots; the template knows these and nothing else."""

import csv
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from fedsim.files import write_text
from fedsim.lab.report.plots.canvas import Plot, file_name
from fedsim.lab.store.figures import Verdict
from fedsim.lab.terminal.marks import Piece

JOINERS = "\u200c\u200d"  # invisible, but words of Persian or Hindi need them


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the page, and a csv file beside it.

    Attributes:
        name: of its file.
        caption: above it, one line.
        columns: their heads.
        rows: one value a column; None is shown as a dash.
        digits: of floats on the page; the file has all of them.
        wraps: its cells hold sentences, which may take more than one line.
    """

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    digits: int = 2
    wraps: bool = False

    def write(self, folder: Path) -> Path:
        """Write the table as ``<name>.csv``."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(self.columns)
        writer.writerows([[_inert(value) for value in row] for row in self.rows])
        path = folder / f"{file_name(self.name)}.csv"
        write_text(path, out.getvalue())
        return path

    def shown(self, value: Any) -> str:
        """Return ``value`` as it stands on the page."""
        if value is None:
            return "–"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float):
            return f"{value:.{self.digits}f}"
        return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)

    def is_number(self, value: Any) -> bool:
        """Return whether ``value`` stands to the right."""
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _inert(value: Any) -> Any:
    """Return ``value`` so that a spreadsheet takes no client's text for a formula.

    Control characters, which can end a cell or drive a terminal, are written as U+001B.
    """
    if not isinstance(value, str):
        return value
    # Programs may skip what prints nothing, and take full-width signs for the usual ones.
    first = next((sign for sign in value if sign.isprintable() and not sign.isspace()), "")
    formula = unicodedata.normalize("NFKC", first) in ("=", "+", "-", "@")
    hidden = {sign for sign in value if unicodedata.category(sign) in ("Cc", "Cs")} - {"\n", "\t"}
    shown = "".join(f"U+{ord(sign):04X}" if sign in hidden else sign for sign in value)
    return f"'{shown}" if formula else shown


@dataclass(frozen=True, kw_only=True)
class ShownText:
    """One text of a client beside what was read of it; the texts are empty where redacted."""

    place: str  # attack, round, client
    exact: bool
    overlap: float  # bag F1
    accuracy: float  # by position
    chance: float | None
    truth: Sequence[Piece] = ()
    guess: Sequence[Piece] = ()


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """One of the three figures on the first screen."""

    value: str
    label: str
    note: str


@dataclass(frozen=True, kw_only=True)
class PageSection:
    """A part of the page, in this order: words, facts, plots, tables."""

    anchor: str
    title: str
    words: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()  # behind a click
    texts: Sequence[ShownText] = ()
    code: Sequence[tuple[str, str]] = ()  # (title, text), behind a click

    @property
    def empty(self) -> bool:
        """Whether there is nothing under the title."""
        return not (
            self.words or self.facts or self.plots or self.tables or self.texts or self.code
        )


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report."""

    title: str
    kind: str  # run | sweep
    subtitle: str
    verdict: Verdict
    headline: str
    reasons: Sequence[tuple[str, Verdict, str]]
    figures: Sequence[KeyFigure]
    sections: Sequence[PageSection]
    redacted: bool
    files: Sequence[Table] = field(default_factory=list)  # csv files that are no table of the page


def readable(text: str) -> Markup:
    """Return ``text`` for HTML: escaped, and signs that print nothing or turn lines are shown."""
    parts = []
    for sign in text:
        if sign.isprintable() or sign in JOINERS or unicodedata.category(sign) == "Zs":
            parts.append(escape(sign))
        else:
            name = unicodedata.name(sign, "control")
            parts.append(
                Markup('<span class="sign" title="{}">U+{:04X}</span>').format(name, ord(sign))
            )
    return Markup("").join(parts)
