"""The gate's answer: for a person, for a program, for a CI server, for a comment on a change."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from fedsim.lab.gate.judge import Check, overall
from fedsim.printing import printable

WORDS = {
    "pass": "The gate is passed.",
    "fail": "The gate is closed: something leaks more, or is worth less, than the policy allows.",
    "inconclusive": "The gate stays closed: nothing says that the policy holds.",
}


def as_text(checks: Sequence[Check]) -> str:
    """Return a line for each check, those that did not pass first, then the answer."""
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    lines = [
        f"{check.outcome:12}  {_place(check)}: {printable(check.why)}"
        for check in sorted(checks, key=lambda check: order[check.outcome])
    ]
    return "\n".join([*lines, WORDS[overall(checks)]])


def as_dict(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the answer as JSON values."""
    return {
        "schema": 1,
        "outcome": overall(checks),
        "checks": [_plain(asdict(check)) for check in checks],
    }


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON knows it: there is no infinity, so it is the word."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def as_markdown(checks: Sequence[Check]) -> str:
    """Return the answer as a GitHub-flavoured table."""
    rows = [
        f"| {check.outcome} | {_cell(_place(check))} | {_cell(check.why)} |" for check in checks
    ]
    table = ["| outcome | check | why |", "|---|---|---|", *rows]
    return "\n".join([f"## {WORDS[overall(checks)]}", "", *table, ""])


def as_junit(checks: Sequence[Check]) -> str:
    """Return the answer as JUnit XML: a suite for each run, ``inconclusive`` is an error."""
    root = ElementTree.Element("testsuites", {"name": "fedsim gate", **_counts(checks)})
    for cell, group in groupby(checks, key=lambda check: check.cell):
        some = list(group)
        name = printable(cell) or "run"
        suite = ElementTree.SubElement(root, "testsuite", {"name": name, **_counts(some)})
        for check in some:
            case = ElementTree.SubElement(
                suite, "testcase", name=printable(check.key), classname=f"gate.{printable(cell)}"
            )
            if check.outcome != "pass":
                kind = "failure" if check.outcome == "fail" else "error"
                ElementTree.SubElement(case, kind, message=printable(check.why))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _counts(checks: Sequence[Check]) -> dict[str, str]:
    return {
        "tests": str(len(checks)),
        "failures": str(sum(check.outcome == "fail" for check in checks)),
        "errors": str(sum(check.outcome == "inconclusive" for check in checks)),
    }


def _place(check: Check) -> str:
    return printable(f"{check.cell}: {check.key}" if check.cell else check.key)


def _cell(text: str) -> str:
    """Return ``text`` for a cell of a table: it may end no cell and open no tag or link."""
    shown = printable(text)
    for sign in "\\`*_[]|~":
        shown = shown.replace(sign, f"\\{sign}")
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")
