"""Messages over a socket of two processes: a kind, a number, a length, the bytes, descriptors."""

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

HEAD = struct.Struct("!cQQ")
TASK, ANSWER, STEP = b"t", b"a", b"s"  # kinds
LAST = b"l"  # an answer of one that is to be ended: what it was given to do goes on in it
MOST = 16 * 2**20  # bytes of an answer: the longest guess there may be takes 14
FILES = 2  # descriptors that come with one, at most


class Message(NamedTuple):
    """What came over a socket."""

    kind: bytes
    number: int  # of the task that it is about
    content: bytes
    files: list[int]  # descriptors


def send(
    channel: socket.socket,
    kind: bytes,
    content: bytes,
    files: Sequence[int] = (),
    *,
    number: int = 0,
) -> None:
    """Send one message."""
    socket.send_fds(channel, [HEAD.pack(kind, number, len(content))], files)
    channel.sendall(content)


def receive(channel: socket.socket) -> Message | None:
    """Return the next message; None: the other end is gone."""
    head, files, _, _ = socket.recv_fds(channel, HEAD.size, FILES)
    rest = _exactly(channel, HEAD.size - len(head)) if head else None
    if rest is None:
        return None
    kind, number, length = HEAD.unpack(head + rest)
    content = _exactly(channel, length)
    return None if content is None else Message(kind, number, content, files)


def _exactly(channel: socket.socket, length: int) -> bytes | None:
    content = bytearray()
    while len(content) < length:
        part = channel.recv(min(length - len(content), 2**20))
        if not part:
            return None
        content += part
    return bytes(content)
