"""Algorithm 2 where every token sees every other: sentences of an encoder's batch."""

from attacks.dager.encoder.search import read_encoder

__all__ = ["read_encoder"]
