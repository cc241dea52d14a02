"""The command line: ``fedsim COMMAND``; the commands are in ``fedsim.lab.commands``."""

import argparse
import errno
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence

from fedsim import __version__
from fedsim.errors import LEFT_OUT, BadInput, FedsimError, redacted
from fedsim.lab.commands import COMMANDS
from fedsim.lab.commands.base import BAD_INPUT, FAILED, INTERRUPTED, redacts
from fedsim.lab.environment import set_environment
from fedsim.printing import printable, printable_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Errors are one line on stderr."""
    set_environment()  # before a command imports torch, Flower or Ray: most is read at import
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    # argparse stops to collect words at the first option; those that follow belong to them.
    stray = [word for word in more if word.startswith("-") or not hasattr(options, "words")]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)}")
    if more:
        options.words += more
    typed = sys.argv[1:] if arguments is None else arguments
    options.typed = shlex.join(["fedsim", *typed])  # for the record
    command: Callable[[argparse.Namespace], int] = options.command
    redact = redacts(options, progress=True)
    try:
        return command(options)
    except BadInput as error:
        return _complain(_said(error, redact), BAD_INPUT)
    except FedsimError as error:
        return _complain(_said(error, redact), FAILED)
    except KeyboardInterrupt:
        print("fedsim: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left
        sys.stderr.close()
        return FAILED
    except OSError as error:  # a file of ours, of the user's, of a library's
        return _complain(error, BAD_INPUT if error.errno == errno.ENAMETOOLONG else FAILED)
    except SystemExit as error:  # no work of ours ends so: a plugin's 0 would say that all is done
        at = traceback.extract_tb(error.__traceback__)[-1]
        code = LEFT_OUT if redact and isinstance(error.code, str) else repr(error.code)
        return _complain(f"{at.filename}:{at.lineno} called exit({code})", FAILED)
    except BaseException as error:  # a fault of ours, or of a plugin
        whole = _frames(error) if redact else traceback.format_exc()
        print(printable_lines(whole), end="", file=sys.stderr)
        print("fedsim: this is a bug; please report the lines above", file=sys.stderr)
        return FAILED


def _said(error: FedsimError, redact: bool) -> str:
    """Return what ``error`` says; with ``redact`` not what it quotes of the clients' data."""
    whole, told = str(error), redacted(error) if redact else str(error)
    return whole if told == whole else f"{told} ({LEFT_OUT} is the data's; --no-redact prints it)"


def _frames(error: BaseException) -> str:
    """Return the traceback of ``error`` and its kind: its words might quote the data."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{frames}{type(error).__name__}: {LEFT_OUT} (--no-redact prints what it says)\n"


def _complain(error: Exception | str, code: int) -> int:
    print(f"fedsim: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedsim",
        description="Federated fine-tuning of language models under a curious server.",
        epilog="exit codes: 0 fine, 1 the gate is closed or a claim refuted, 2 bad input, "
        "3 inconclusive, 4 the run failed, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"fedsim {__version__}")
    commands = parser.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    for add in COMMANDS.values():
        add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
