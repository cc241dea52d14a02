"""The error tree.

FedsimError
├── BadInput                 what the user wrote cannot be used: exit code 2, before anything long
├── MalformedMessage         a record on the wire or a file on disk does not say what it must
│                            (MalformedFile: such a file, which is bad input as well: exit code 2)
├── UnsupportedObservation   an attack cannot work on what it was shown
├── ClientFailure            a client failed and the run was told to stop: exit code 4
├── DefenseFailed            what a defense sends is not what it says it sends: exit code 4
└── RunFailed                the run itself failed: exit code 4
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

LONGEST = 300  # characters of a library's words that are repeated


class FedsimError(Exception):
    """Everything fedsim raises on purpose."""


class BadInput(FedsimError, ValueError):
    """What the user wrote cannot be used: one line with what was wanted, came and is allowed."""


class MalformedMessage(FedsimError, ValueError):
    """A record or a file does not say what it must."""


class MalformedFile(MalformedMessage, BadInput):
    """A file does not say what it must, whoever wrote it: one line that names it."""


class UnsupportedObservation(FedsimError, ValueError):
    """An attack cannot work on what it was shown."""


class ClientFailure(FedsimError, RuntimeError):
    """A client failed, and the run was told to stop.

    A client tells the server this message: it has no figure of the data. Notes stay on the client.
    """


class DefenseFailed(FedsimError, RuntimeError):
    """What a defense sends is not what it says it sends."""


class RunFailed(FedsimError, RuntimeError):
    """The run failed for a reason of its own."""


def shown(value: object, most: int = 200) -> str:
    """Return what came for a line of error: as Python writes it, but not all of a long one."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def unknown(what: str, got: str, known: Iterable[str]) -> str:
    """Return one line for a name that is not known: the nearest known one, then all of them."""
    names = sorted(known)
    near = get_close_matches(got[:200], names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {shown(got)}{hint} (known: {', '.join(names) or 'none'})"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Have whatever a library raises inside said as bad input: ``what``, then the library's words.

    On a broken file libraries raise anything, down to RecursionError and the panics of Rust, which
    are no Exception. Only calls into them belong inside, for a fault of ours must stay one.
    """
    try:
        yield
    except (FedsimError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise BadInput(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line; its type, too, where the words need it."""
    words = " ".join(str(error).split())
    words = words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
    if words and isinstance(error, OSError | ValueError | RuntimeError | ImportError):
        return words
    kind = type(error).__name__
    return f"{kind}: {words}" if words else kind
