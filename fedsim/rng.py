"""Random streams: one root, as many independent generators as there are names.

Every stream is a function of its root and its own name alone, so the order in which clients, rounds
or engines ask for randomness cannot change what any of them gets. The root is a run's seed, which
anybody may guess, or a secret, which nobody can.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

SIZE = 16  # bytes of a secret
WORDS = 624  # of 32 bits: the state of torch's CPU generator, a Mersenne twister
FIRST = 24  # bytes before them in what get_state() returns; each takes 8


@dataclass(frozen=True)
class Secret:
    """128 bits to derive streams from; whoever sees a stream learns neither them nor another."""

    value: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.value) != SIZE:
            raise ValueError(f"a secret has {SIZE} bytes, got {len(self.value)}")

    @classmethod
    def drawn(cls) -> "Secret":
        """Return a new one."""
        return cls(secrets.token_bytes(SIZE))

    def bound(self, *name: str | int) -> "Secret":
        """Return the secret of what is called ``name``, which tells neither this nor another."""
        return Secret(self.bytes_of(("bound", *name), SIZE))

    def bytes_of(self, name: tuple[str | int, ...], count: int) -> bytes:
        """Return ``count`` bytes for what is called ``name``: SHAKE-256 over the secret and it."""
        text = "/".join(["", *map(str, name)])
        return hashlib.shake_256(self.value + text.encode()).digest(count)


Root = int | Secret


def derive(root: Root, *name: str | int) -> int:
    """Return a 63-bit seed for the stream called ``name``: a hash over the root and the name."""
    if isinstance(root, Secret):
        return int.from_bytes(root.bytes_of(name, 8), "big") >> 1
    text = "/".join([str(root), *map(str, name)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(root: Root, *name: str | int) -> torch.Generator:
    """Return a CPU generator for the stream called ``name``, e.g. ``stream(1, "client", 3)``."""
    generator = torch.Generator().manual_seed(derive(root, *name))
    if isinstance(root, Secret):
        generator.set_state(_state(root, *name))
    return generator


def _state(secret: Secret, *name: str | int) -> torch.Tensor:
    """Return a whole state of torch's CPU generator.

    A seed would not do: of its 64 bits the generator takes 32, which can be tried out in an hour.
    """
    state = torch.Generator().get_state()  # fresh: it makes all words anew before it gives one
    words = np.frombuffer(secret.bytes_of((*name, "state"), 4 * WORDS), dtype="<u4")
    state.numpy()[FIRST : FIRST + 8 * WORDS].view("<u8")[:] = words
    return state


@contextlib.contextmanager
def global_stream(root: Root, *name: str | int) -> Iterator[None]:
    """Make torch's global generators the stream called ``name`` inside the block; restore them.

    For code that cannot be handed a generator: dropout, and the initialisation in transformers.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive(root, *name))
        if isinstance(root, Secret):
            torch.set_rng_state(_state(root, *name))
        yield
