"""What a worker tells of its progress."""

import logging
import socket
from collections.abc import Callable

import pytest

from attacks.worker.channel import STEP, receive
from attacks.worker.serving import LOGGER, Teller

Say = Callable[[logging.Logger], None]
TEXT = "Nora Petrov has a rash"


def lamp(logger: logging.Logger) -> None:
    logger.info("step %d/%d, distance %.4f: %s", 3, 40, 0.25, TEXT)


def told(say: Say, *, texts: bool) -> list[str]:
    """Return the lines that reach the other end."""
    lines = []
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            logger = logging.Logger(LOGGER, logging.INFO)
            logger.addHandler(Teller(theirs, 7, texts=texts))
            say(logger)
        while (message := receive(ours)) is not None:
            assert (message.kind, message.number) == (STEP, 7)
            lines.append(message.content.decode())
    return lines


def test_with_texts_a_line_is_as_it_was_logged() -> None:
    assert told(lamp, texts=True) == [f"step 3/40, distance 0.2500: {TEXT}"]


@pytest.mark.parametrize(
    ("say", "line"),
    [
        (lamp, ["step 3/40, distance 0.2500: …"]),
        (lambda logger: logger.info("%d of %s", 3, [TEXT]), ["3 of …"]),
        (lambda logger: logger.info(f"so far: {TEXT}"), []),  # in one piece
        (lambda logger: logger.info("%(text)s", {"text": TEXT}), []),
        (lambda logger: logger.info("%d", float("nan")), []),  # no such format
    ],
    ids=["lamp", "a list", "one piece", "by name", "no format"],
)
def test_without_texts_the_numbers_are_left(say: Say, line: list[str]) -> None:
    assert told(say, texts=False) == line
