"""The command line: ``fedsim COMMAND``; the commands are in ``fedsim.lab.commands``."""

import argparse
import errno
import sys
import traceback
from collections.abc import Callable, Sequence

from fedsim import __version__
from fedsim.errors import BadInput, FedsimError
from fedsim.lab.commands import COMMANDS
from fedsim.lab.commands.base import BAD_INPUT, FAILED, INTERRUPTED
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
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except BadInput as error:
        return _complain(error, BAD_INPUT)
    except FedsimError as error:
        return _complain(error, FAILED)
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
        return _complain(f"{at.filename}:{at.lineno} called exit({error.code!r})", FAILED)
    except BaseException:  # a fault of ours, or of a plugin
        print(printable_lines(traceback.format_exc()), end="", file=sys.stderr)
        print("fedsim: this is a bug; please report the lines above", file=sys.stderr)
        return FAILED


def _complain(error: Exception | str, code: int) -> int:
    print(f"fedsim: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedsim",
        description="Federated fine-tuning of language models under a curious server.",
    )
    parser.add_argument("--version", action="version", version=f"fedsim {__version__}")
    commands = parser.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    for add in COMMANDS.values():
        add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
