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

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

LONGEST = 300  # characters of a library's words that are repeated
LEFT_OUT = "…"  # stands for what is not printed
_BEGIN, _END = "\ufdd0", "\ufdd1"  # around what is quoted: no characters of any text
_QUOTED = re.compile(f"{_BEGIN}([^{_BEGIN}{_END}]*){_END}")


class FedsimError(Exception):
    """Everything fedsim raises on purpose.

    Attributes:
        redacted: what it says, without what it quotes of the data (see :func:`quote`).
    """

    def __init__(self, *said: object) -> None:
        super().__init__(*(_QUOTED.sub(r"\1", s) if isinstance(s, str) else s for s in said))
        first = said[0] if said else ""
        self.redacted: str = getattr(first, "redacted", _QUOTED.sub(LEFT_OUT, str(first)))


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


def quote(text: str) -> str:
    """Return ``text`` for an error's message, marked as words of the data: they may be private."""
    return f"{_BEGIN}{text.replace(_BEGIN, '').replace(_END, '')}{_END}"


def redacted(error: BaseException) -> str:
    """Return what ``error`` says without what it, or one that it repeats, quotes of the data."""
    if not isinstance(error, FedsimError):
        return str(error)
    said, before = error.redacted, error.__cause__ or error.__context__
    while before is not None:  # an error that says more about another has that one's words in it
        if isinstance(before, FedsimError) and before.redacted != str(before):
            said = said.replace(str(before), before.redacted)
        before = before.__cause__ or before.__context__
    return said


def shown(value: object, most: int = 200) -> str:
    """Return what came for a line of error: as Python writes it, but not all of a long one."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def unknown(what: str, got: str, known: Iterable[str], *, private: bool = False) -> str:
    """Return one line for a name that is not known: the nearest known one, then all of them.

    ``private``: the known ones are of the data, as the names of columns, and marked so.
    """
    names = sorted(known)
    near = get_close_matches(got[:200], names, n=1, cutoff=0.5)
    hint, told = (repr(near[0]) if near else ""), ", ".join(names) or "none"
    if private:
        hint, told = quote(hint) if hint else "", quote(told)
    hint = f"; did you mean {hint}?" if hint else ""
    return f"unknown {what} {shown(got)}{hint} (known: {told})"


@contextmanager
def reading(what: str, *, private: bool = False) -> Iterator[None]:
    """Have whatever a library raises inside said as bad input: ``what``, then the library's words.

    ``private``: which may quote the clients' texts.

    On a broken file libraries raise anything, down to RecursionError and the panics of Rust, which
    are no Exception. Only calls into them belong inside, for a fault of ours must stay one.
    """
    try:
        yield
    except (FedsimError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        words = one_line(error)
        raise BadInput(f"{what}: {quote(words) if private else words}") from error


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line; its type, too, where the words need it."""
    words = " ".join(str(error).split())
    words = words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
    if words and isinstance(error, OSError | ValueError | RuntimeError | ImportError):
        return words
    kind = type(error).__name__
    return f"{kind}: {words}" if words else kind
