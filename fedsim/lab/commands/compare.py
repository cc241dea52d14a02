"""``fedsim compare``: how runs differ from one of them, with intervals."""

import argparse
import contextlib
from pathlib import Path
from typing import Any

from fedsim.lab.commands.base import FINE, importing, new_command
from fedsim.printing import printable_json

EXAMPLES = """examples:
  fedsim compare runs/plain runs/defended           what the defense changed
  fedsim compare runs/sweep/cells/*                 against the first cell without a defense
  fedsim compare runs/a runs/b --reference runs/c --json
The reference is the first run that is named; of cells of one sweep the first without a defense.
Runs that trained on the same texts are paired sample by sample, clustered by client update.
exit codes: 0 fine, 2 no finished run there, or a file in it is broken"""


def add(commands: Any) -> None:
    """Add the command to the parser's ``commands``."""
    compare = new_command(commands, "compare", _compare, "compare runs with one of them", EXAMPLES)
    compare.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    compare.add_argument(
        "--reference", type=Path, metavar="RUN", help="the run that all are held against"
    )
    compare.add_argument("--json", action="store_true", help="print JSON")


def _compare(options: argparse.Namespace) -> int:
    with importing():
        from fedsim.lab.compare import compare
        from fedsim.lab.terminal.compare import print_comparison

    comparison = compare(options.runs, options.reference)
    if options.json:
        print(printable_json(comparison))
    else:
        with contextlib.suppress(BrokenPipeError, SystemExit):
            print_comparison(comparison)
    return FINE
