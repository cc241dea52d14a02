"""The numbers of DAGER: all are used, all say where they are from, and how far they were moved."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from attacks.dager import thresholds

ROOT = Path(__file__).parents[3]
ROOM = ROOT / "attacks" / "dager"
RECORD = ROOT / "benchmarks" / "results" / "dager_sensitivity.json"
NAMES = [name for name in vars(thresholds) if name.isupper()]
MARKS = {(True, True): "free", (True, False): "down", (False, True): "up", (False, False): "tight"}


def comments() -> dict[str, str]:
    """Return the comment above each number, or above the first of its group."""
    text, written = "", dict[str, str]()
    for line in Path(thresholds.__file__).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            fresh = bool(written) and text == written[next(reversed(written))]
            text = line[1:] if fresh else text + line[1:]
        elif not line.strip():
            text = ""
        elif number := re.match(r"([A-Z][A-Z_0-9]*) = ", line):
            written[number[1]] = text
    return written


@pytest.mark.parametrize("name", NAMES)
def test_a_number_is_read_where_its_heading_says(name: str) -> None:
    source = Path(thresholds.__file__).read_text(encoding="utf-8")
    headings = re.findall(r"^# ([\w/]+\.py): ", source[: source.index(f"\n{name} = ")], re.M)
    assert f"thresholds.{name}" in (ROOM / headings[-1]).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_number_says_where_it_is_from(name: str) -> None:
    assert re.search(r"\bFrom: \S", comments()[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_numbers_mark_is_what_was_measured(name: str) -> None:
    cells = json.loads(RECORD.read_text(encoding="utf-8"))["cells"].values()
    reading = [cell for cell in cells if name in cell["numbers"]]
    steady = mark(name, [cell for cell in reading if cell["steady"]])
    wanted = steady + "*" * (mark(name, reading) != steady) if reading else "unread"
    source = Path(thresholds.__file__).read_text(encoding="utf-8")
    written = re.search(rf"^{name} = .*  # (\S+)$", source, re.M)
    assert written is not None and written[1] == wanted


def mark(name: str, cells: list[dict[str, Any]]) -> str:
    """Return what the moves of a number do in some regimes, in a word."""
    less, more = (
        all(cell["numbers"][name][way].get("same_guesses", False) for cell in cells)
        for way in ("x0.7", "x1.4")
    )
    return MARKS[less, more]
