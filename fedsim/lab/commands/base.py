"""What the commands share: exit codes, their parsers, the terminal."""

import argparse
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # slow to import, and `fedsim --help` needs none of it
    from fedsim.lab.store.summary import Summary

from fedsim.errors import BadInput
from fedsim.lab.environment import quiet_libraries
from fedsim.lab.isolation.processes import processes
from fedsim.printing import printable_json

FINE, LEAK, BAD_INPUT, INCONCLUSIVE, FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def new_command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], int],
    text: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Return the parser of a new command ``name`` that calls ``function``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--redact",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="leave clients' texts, and what attacks read, out of all that is printed (default: "
        "where stdout is no terminal)",
    )
    parser.set_defaults(command=function)
    return parser


def common_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command that attacks can take."""
    parser.add_argument("--json", action="store_true", help="print summary.json and nothing else")
    parser.add_argument("--quick", action="store_true", help="skip the controls: no verdict then")


def redacts(options: argparse.Namespace, *, progress: bool = False) -> bool:
    """Return whether texts stay out of what is printed: as asked for, or where it is no terminal.

    ``progress``: of what goes to stderr, which may be a file where stdout is none.
    """
    if options.redact is not None:
        return bool(options.redact)
    return not sys.stdout.isatty() or (progress and not sys.stderr.isatty())


def tell_redacted(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Say, where nobody asked for it, that texts are left out: before rich takes the streams."""
    if options.redact is None and redacts(options, progress=True):
        which = "stderr" if sys.stdout.isatty() else "stdout"
        say(f"Texts are left out, for {which} is no terminal; --no-redact prints them")


def secret_option(parser: argparse.ArgumentParser) -> None:
    """Add what repeats a run whose defense claims a guarantee."""
    parser.add_argument(
        "--secret", type=Path, metavar="FILE",
        help="what clients draw noise and lots from, as 32 hexadecimal digits; default: random, so "
        "that a guarantee holds against everybody",
    )  # fmt: skip


def is_path(word: str) -> bool:
    """Return whether a command's first word names a config, not a key: a cell's has ``=``, too."""
    key, equals, _ = word.partition("=")
    return not equals or "/" in key or os.path.isfile(word)  # False, too, of what no name can be


def need_config(words: Sequence[str]) -> None:
    """Raise BadInput where the config that ``words`` begin with is not there.

    Whoever reads it says so, too: after all imports, which take seconds.
    """
    if words and is_path(words[0]) and not os.path.exists(words[0]):
        raise BadInput(f"config {words[0]!r} does not exist")


@contextlib.contextmanager
def importing(*, attacks: bool = False) -> Iterator[None]:
    """Import what a command needs without a look for garbage: that is a quarter of the time.

    What was imported stays, so it is not looked through later, either. Its chatter is kept down.
    With ``attacks`` the process that they run in is started first, so that it imports beside us.
    """
    if attacks:
        processes()
    if "torch" in sys.modules:  # nothing to gain
        yield
        quiet_libraries()
        return
    gc.disable()
    try:
        yield
        quiet_libraries()
    finally:
        gc.freeze()
        gc.enable()


def display_for(options: argparse.Namespace, *, attacks: bool = True) -> Any:
    """Return the display that an attack's log lines go to as well, if there are ``attacks``."""
    from fedsim.lab.terminal.run import Terminal

    display = Terminal(quiet=options.json, redact=redacts(options, progress=True))
    listen(display)
    if attacks:
        tell_redacted(options, display.say)
    return display


def listen(display: Any) -> None:
    """Have ``display`` show what attacks log as progress."""
    from fedsim.lab.terminal.run import StepHandler

    logger = logging.getLogger("fedsim.attacks")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [StepHandler(display)]


def show(options: argparse.Namespace, summary: "Summary", scores: Any, adapter: Any) -> int:
    """Print ``summary`` as asked for; return the exit code that its verdicts give."""
    from fedsim.lab.store.quoting import without_quotes

    texts = not redacts(options)
    told = summary if texts else without_quotes(summary)
    if options.json:
        print(printable_json(told.as_dict()))
    else:
        from fedsim.lab.terminal.run import SideBySide, print_summary

        with contextlib.suppress(BrokenPipeError, SystemExit):  # rich ends when the reader leaves
            print_summary(told, scores, SideBySide(adapter) if texts else None)
    verdicts = [judged.verdict for judged in summary.verdicts.values()]
    return INCONCLUSIVE if "inconclusive" in verdicts else FINE
