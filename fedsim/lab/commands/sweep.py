"""``fedsim sweep``: a grid of experiments, resumable, in one table."""

import argparse
import contextlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import BadInput
from fedsim.lab.commands.base import (
    FAILED,
    FINE,
    INCONCLUSIVE,
    importing,
    is_path,
    listen,
    need_config,
    new_command,
    redacts,
    secret_option,
    tell_redacted,
)
from fedsim.printing import printable_json

if TYPE_CHECKING:  # slow to import, and `fedsim --help` needs none of it
    from fedsim.lab.store.sweep import SweepRecord
    from fedsim.lab.sweep.directory import SweepDirectory
    from fedsim.lab.sweep.grid import SweepPlan

EXAMPLES = """examples:
  fedsim sweep experiment.toml training.local_epochs=1,5,10 training.learning_rate=1e-4,1e-3
  fedsim sweep experiment.toml defense=none,topk defense.fraction=0.1,0.01 seed=1,2,3 --jobs 2
  fedsim sweep experiment.toml 'defense=none,{name="topk", fraction=0.1}' --out runs/defenses
  fedsim sweep examples/recipes/dager-table2-small.toml     a paper's table, beside ours
  fedsim sweep --out runs/defenses --resume         go on; so does the same command again
  fedsim sweep --out runs/defenses defense=sign seed=2,3    more values, beside those it has
A finished cell is never run again; one that failed is a row with its error, and is tried again by
the next call. Cells that differ in their attacks only train once.
exit codes: 0 fine, 2 bad input, 3 a verdict is inconclusive, 4 a cell failed"""


def add(commands: Any) -> None:
    """Add the command to the parser's ``commands``."""
    sweep = new_command(commands, "sweep", _sweep, "run a grid of experiments", EXAMPLES)
    sweep.add_argument(
        "words", nargs="*", metavar="[CONFIG] key=v1,v2 ...",
        help="a TOML file (default: the built-in quick start), and the keys to sweep over",
    )  # fmt: skip
    sweep.add_argument("--out", type=Path, help="the sweep's directory (default: under runs/)")
    jobs = "cells at a time, on Ray (default: %(default)s)"
    sweep.add_argument("--jobs", type=int, default=1, help=jobs)
    secret_option(sweep)
    sweep.add_argument("--resume", action="store_true", help="go on with the sweep in --out")
    sweep.add_argument("--quick", action="store_true", help="skip the controls: no verdicts then")
    sweep.add_argument("--json", action="store_true", help="print JSON and nothing else")


def _sweep(options: argparse.Namespace) -> int:
    need_config(options.words)
    with importing(attacks=options.jobs == 1):
        from fedsim.lab.run.secrecy import read_secret
        from fedsim.lab.store.lock import held
        from fedsim.lab.sweep.directory import Ledger, SweepDirectory
        from fedsim.lab.sweep.runner import check_cells, run_cells
        from fedsim.lab.sweep.table import write_table
        from fedsim.lab.terminal.sweep import SweepTerminal
    secret = read_secret(options.secret) if options.secret else None
    mark = secret.bound("sweep").value.hex() if secret else None
    plan = replace(_plan(options), secret=mark)
    if plan.grows or not plan.commands:
        plan = replace(plan, commands=[*plan.commands, options.typed])
    directory = SweepDirectory(options.out) if options.out else SweepDirectory.default(plan)
    directory.claim(plan)
    display = SweepTerminal(
        quiet=options.json, total=len(plan.cells), redact=redacts(options, progress=True)
    )
    listen(display)
    tell_redacted(options, display.announce)
    with display:
        display.step("checking every cell")
        check_cells(plan.cells, options.jobs, secret=secret is not None)
        with held(directory.root):
            directory.claim(plan)  # again: another sweep may have begun here in the meantime
            ledger = Ledger(directory, plan)
            display.done = ledger.count("done")
            display.announce(
                f"{plan.cells[0].config.name}: {len(plan.cells)} cells, {display.done} done "
                f"before, results in {directory.root}"
            )
            try:
                run_cells(plan.cells, directory, ledger, display, jobs=options.jobs, secret=secret)
            except BaseException:
                again = shlex.quote(str(directory.root))
                more = f" --secret {shlex.quote(str(options.secret))}" if secret else ""
                display.announce(f"stopped; go on with: fedsim sweep --out {again} --resume{more}")
                raise
            finally:
                write_table(directory, ledger.sweep())
    return _show(options, directory, ledger.sweep())


def _plan(options: argparse.Namespace) -> "SweepPlan":
    from fedsim.lab.config import QUICK_START, read_toml
    from fedsim.lab.config.recipes import recipe_of
    from fedsim.lab.store.layout import is_sweep
    from fedsim.lab.sweep.directory import SweepDirectory
    from fedsim.lab.sweep.grid import make_plan
    from fedsim.lab.sweep.growing import grown

    if options.resume:
        if options.out is None or options.words or options.quick:
            raise BadInput(
                "--resume goes on with the sweep in --out DIR, and takes nothing else but --secret"
            )
        return SweepDirectory(options.out).plan()
    words = list(options.words)
    given = bool(words) and is_path(words[0])
    path = Path(words.pop(0)) if given else QUICK_START
    if not given and words and options.out is not None and is_sweep(options.out):
        return grown(SweepDirectory(options.out), words, quick=options.quick)
    base, recipe = read_toml(path), recipe_of(path)
    words = words if recipe is None else recipe.words(words)
    return make_plan(base, words, quick=options.quick, recipe=recipe)


def _show(options: argparse.Namespace, directory: "SweepDirectory", sweep: "SweepRecord") -> int:
    """Print how the sweep ended; return its exit code."""
    from fedsim.lab.sweep.overview import overview
    from fedsim.lab.terminal.sweep import print_sweep

    shown = overview(directory, sweep, redact=redacts(options))
    if options.json:
        print(printable_json(shown))
    else:
        with contextlib.suppress(BrokenPipeError, SystemExit):
            print_sweep(shown)
    if any(cell["error"] for cell in shown["cells"]):
        return FAILED
    verdicts = [
        verdict["verdict"] for cell in shown["cells"] for verdict in cell["verdicts"].values()
    ]
    return INCONCLUSIVE if "inconclusive" in verdicts else FINE
