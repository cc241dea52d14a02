"""From bytes to text: in which encoding, and what is said where it is another."""

import codecs
from difflib import get_close_matches
from encodings.aliases import aliases

from fedsim.errors import BadInput, one_line, shown

UTF8 = "utf-8"
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # what such a file begins with


def check_encoding(encoding: str) -> None:
    """Raise BadInput where ``encoding`` is none that Python can read a text in."""
    if _is_of_text(encoding):
        return
    known = {name.replace("_", "-") for name in (*aliases, *aliases.values()) if _is_of_text(name)}
    near = get_close_matches(encoding[:200].lower().replace("_", "-"), sorted(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise BadInput(
        "data.encoding: wanted an encoding of text that Python knows, such as utf-8, utf-16 or "
        f"cp1252, got {shown(encoding)}{hint}"
    )


def _is_of_text(encoding: str) -> bool:
    """Return whether Python decodes to text by it; others unpack, or turn letters round."""
    try:
        codecs.lookup(encoding)
        b"a".decode(encoding)
    except UnicodeDecodeError:  # of two bytes a letter
        return True
    except (LookupError, ValueError):  # no such word, or none at all, or it decodes nothing
        return False
    return True


def is_utf8(encoding: str) -> bool:
    """Return whether a name that Python knows is one of UTF-8."""
    return codecs.lookup(encoding).name == UTF8


def decoded(content: bytes, encoding: str, place: str, hint: str) -> str:
    """Return ``content`` as text without a byte order mark, its lines not ended by CR LF.

    Args:
        content: all of a file.
        encoding: what it is in.
        place: the key and the file, for a line of error.
        hint: what to do where it is in another; of UTF-16 the line says so itself.

    Raises:
        BadInput: it is in another.
    """
    try:
        text = content.decode(encoding)
    except UnicodeError as error:
        if hint and content.startswith(UTF16):
            hint = '; it looks like UTF-16: set data.encoding = "utf-16"'
        raise BadInput(f"{place} must be {encoding}, got {_undecoded(error)}{hint}") from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _undecoded(error: UnicodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
    return f"what that cannot be: {one_line(error)}"
