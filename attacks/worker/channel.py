"""Messages over a socket of two processes: a kind, a length, the bytes, and perhaps descriptors."""

import socket
import struct
from collections.abc import Sequence

HEAD = struct.Struct("!cQ")
TASK, ANSWER, STEP = b"t", b"a", b"s"  # kinds
MOST = 256 * 2**20  # bytes of a message
FILES = 2  # descriptors that come with one, at most


def send(channel: socket.socket, kind: bytes, content: bytes, files: Sequence[int] = ()) -> None:
    """Send one message."""
    socket.send_fds(channel, [HEAD.pack(kind, len(content))], files)
    channel.sendall(content)


def receive(channel: socket.socket) -> tuple[bytes, bytes, list[int]] | None:
    """Return the next message: its kind, its content, descriptors; None: the other end is gone."""
    head, files, _, _ = socket.recv_fds(channel, HEAD.size, FILES)
    rest = _exactly(channel, HEAD.size - len(head)) if head else None
    if rest is None:
        return None
    kind, length = HEAD.unpack(head + rest)
    content = _exactly(channel, length)
    return None if content is None else (kind, content, files)


def _exactly(channel: socket.socket, length: int) -> bytes | None:
    content = bytearray()
    while len(content) < length:
        part = channel.recv(min(length - len(content), 2**20))
        if not part:
            return None
        content += part
    return bytes(content)
