"""Random streams: one seed, as many independent generators as there are names.

Every stream is a function of the run's seed and its own name alone, so the order in which
clients, rounds or engines ask for randomness cannot change what any of them gets.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive(seed: int, *name: str | int) -> int:
    """Return a 63-bit seed for the stream called ``name``: SHA-256 over the seed and the name."""
    text = "/".join([str(seed), *map(str, name)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *name: str | int) -> torch.Generator:
    """Return a CPU generator for the stream called ``name``, e.g. ``stream(1, "client", 3)``."""
    return torch.Generator().manual_seed(derive(seed, *name))


@contextlib.contextmanager
def global_stream(seed: int, *name: str | int) -> Iterator[None]:
    """Make torch's global generators the stream called ``name`` inside the block; restore them.

    For code that cannot be handed a generator: dropout, and the initialisation in transformers.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, *name))
        yield
