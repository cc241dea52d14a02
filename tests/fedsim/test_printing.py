import json

import pytest

from fedsim.printing import printable, printable_json, printable_lines

# each would drive a terminal: clear it, name its window, a C1 control, override the direction,
# end the line, half of a surrogate pair
DRIVES = ["\x1b[2J", "\x1b]0;mine\x07", "\x9b31m", "\u202e", "\r", "\x08", "\x7f", "\ud800"]


@pytest.mark.parametrize("text", DRIVES)
def test_nothing_that_drives_a_terminal_is_left(text: str) -> None:
    shown = printable(f"a {text} b")
    assert shown.isprintable() and shown.startswith("a ") and shown.endswith(" b")
    assert printable_lines(f"{text}\n{text}").count("\n") == 1
    written = printable_json({text: [text, "é 漢 \n"]})
    assert all(line.isprintable() for line in written.split("\n"))
    assert json.loads(written) == {text: [text, "é 漢 \n"]}


def test_what_is_text_stays_as_it_is() -> None:
    for text in ("naïve Größe", "漢字かな", "สวัสดี", "русский", "😀 a", "שלום"):
        assert printable(text) == text
        assert text in printable_json([text])


def test_a_sign_beyond_the_first_plane_is_escaped_as_a_pair() -> None:
    assert printable_json("\U000e0001") == '"\\udb40\\udc01"'  # an invisible language tag
