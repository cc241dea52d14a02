"""``fedsim clean``: what may go from finished runs, and what that frees."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.lab.commands.base import FINE, importing, new_command
from fedsim.printing import printable, printable_json

if TYPE_CHECKING:  # slow to import, and `fedsim --help` needs none of it
    from fedsim.lab.store.cleaning import Cleaning

EXAMPLES = """examples:
  fedsim clean runs/mine                            what could go, and what it frees; nothing goes
  fedsim clean runs/mine --yes                      it goes: captures and checkpoints
  fedsim clean runs/sweep --keep captures --yes     of all finished cells; they can be attacked
Results stay: they can be reported, held against a policy and compared as before. A run that is not
finished keeps all it has.
exit codes: 0 fine, 2 no run or sweep there, or another process works in it, 4 the disk refuses"""


def add(commands: Any) -> None:
    """Add the command to the parser's ``commands``."""
    what = "say what may go from finished runs, and remove it"
    clean = new_command(commands, "clean", _clean, what, EXAMPLES)
    clean.add_argument("directory", type=Path, metavar="DIR", help="a run, or a sweep")
    clean.add_argument(
        "--keep", action="append", default=[], choices=["captures", "checkpoints"],
        help="what is to stay; may be given twice",
    )  # fmt: skip
    clean.add_argument("--yes", action="store_true", help="remove it; without: only say")
    clean.add_argument("--json", action="store_true", help="print JSON and nothing else")


def _clean(options: argparse.Namespace) -> int:
    with importing():
        from fedsim.lab.store.cleaning import clean, cleaning

    with cleaning(options.directory, options.keep) as found:
        if options.yes:
            clean(found)
    if options.json:
        print(printable_json(_as_dict(found, options.yes)))
    else:
        for line in _lines(found, options):
            print(printable(line))
    return FINE


def _as_dict(found: "Cleaning", removed: bool) -> dict[str, Any]:
    return {
        "schema": 1,
        "directory": str(found.root),
        "finished": found.finished,
        "unfinished": list(found.unfinished),
        "frees": found.bytes,
        "removed": removed,
    }


def _lines(found: "Cleaning", options: argparse.Namespace) -> list[str]:
    from fedsim.lab.store.cleaning import AFTERWARDS, STAYS

    here, total = found.root, sum(found.bytes.values())
    lines = [f"Finished runs in {here}: {found.finished}"] if found.finished else []
    for name in found.unfinished:
        lines.append(f"Not finished, so it keeps all it has: {name}")
    lines += [
        f"  {what}: {size(found.bytes[what])}; without them {AFTERWARDS[what]}"
        for what, folders in found.folders.items()
        if folders
    ]
    if not any(found.folders.values()):
        return [*lines, "There is nothing to remove."]
    lines.append(f"What stays possible: {STAYS}.")
    if options.yes:
        return [*lines, f"Removed: {size(total)} are free."]
    again = " ".join(["fedsim clean", shlex.quote(str(here)), *_kept(options), "--yes"])
    return [*lines, f"Nothing was removed; to free {size(total)}: {again}"]


def _kept(options: argparse.Namespace) -> list[str]:
    return [word for what in options.keep for word in ("--keep", what)]


def size(count: int) -> str:
    """Return bytes for a person: 812 kB, 3.1 MB, 1.7 GB."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return (
                f"{count / least:.1f} {unit}"
                if count < 100 * least
                else f"{count / least:.0f} {unit}"
            )
    return f"{count} bytes"
