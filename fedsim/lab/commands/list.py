"""``fedsim list``: what there is to choose from."""

import argparse
from typing import Any

from fedsim.lab.commands.base import FINE, new_command
from fedsim.printing import printable_json

EXAMPLES = """examples:
  fedsim list                                       everything
  fedsim list attacks dager                         its source, what it assumes and recovers
  fedsim list attacks --json
exit codes: 0 fine, 2 there is nothing of that name"""


def add(commands: Any) -> None:
    """Add the command to the parser's ``commands``."""
    what = new_command(commands, "list", _list, "list what there is", EXAMPLES)
    what.add_argument("kind", nargs="?", choices=["attacks", "defenses", "models", "data"])
    what.add_argument("name", nargs="?", help="one of them, and all that its header says")
    what.add_argument("--json", action="store_true", help="print JSON")


def _list(options: argparse.Namespace) -> int:
    from fedsim.lab.terminal.catalogue import catalogue, print_catalogue

    choices = catalogue(options.kind, options.name)
    if options.json:
        print(printable_json(choices))
    else:
        print_catalogue(choices)
    return FINE
