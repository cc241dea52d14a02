"""``fedsim inspect``: what captures hold, and what an attack could make of it."""

import argparse
from pathlib import Path
from typing import Any

from fedsim.lab.commands.base import FINE, importing, new_command
from fedsim.printing import printable_json

EXAMPLES = """examples:
  fedsim inspect captures/                          of any Flower project that was tapped
  fedsim inspect runs/mine --json
It reads what was captured and no model: what an attack reads, `fedsim attack` says.
exit codes: 0 fine, 2 no captures there, or a file in them is broken"""


def add(commands: Any) -> None:
    """Add the command to the parser's ``commands``."""
    inspect = new_command(commands, "inspect", _inspect, "say what captures hold", EXAMPLES)
    inspect.add_argument("captures", type=Path, help="a captures directory, or a run")
    inspect.add_argument("--json", action="store_true", help="print JSON")


def _inspect(options: argparse.Namespace) -> int:
    with importing():
        from fedsim.lab.inspect import inspect_captures
        from fedsim.lab.terminal.inspect import inspection_lines

    found = inspect_captures(options.captures).as_dict()
    if options.json:
        print(printable_json(found))
    else:
        for line in inspection_lines(found):
            print(line)
    return FINE
