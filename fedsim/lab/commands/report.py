"""``fedsim report``: a run or a sweep as one page."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fedsim.lab.commands.base import FINE, importing, new_command, redacts

EXAMPLES = """examples:
  fedsim report runs/mine                           report.html, and report/ with plots and tables
  fedsim report runs/mine --redact                  the figures without anybody's text
  fedsim report runs/mine --no-redact | cat         a page with texts, though nobody looks on
  fedsim report runs/mine/attack-lamp-1a2b3c4d      what `fedsim attack runs/mine` read
exit codes: 0 written, 2 no finished run there, or a file in it is broken, 4 the disk is full"""


def add(commands: Any) -> None:
    """Add the command to the parser's ``commands``."""
    report = new_command(commands, "report", _report, "write a run's or a sweep's report", EXAMPLES)
    report.add_argument(
        "directory", type=Path, metavar="DIR", help="a finished run, an attack on it, or a sweep"
    )


def _report(options: argparse.Namespace) -> int:
    with importing():
        from fedsim.lab.report import write_report

    texts = not redacts(options)
    print(write_report(options.directory, redact=not texts))
    if not texts and options.redact is None:
        line = "the page holds no texts, for stdout is no terminal; --no-redact puts them in"
        print(f"fedsim: {line}", file=sys.stderr)
    return FINE
