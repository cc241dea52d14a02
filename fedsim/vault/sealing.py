"""Sealing: whoever has the seal can write what only the key's owner can read (HPKE, RFC 9180)."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

HEAD = b"fedsim sealed 1\n"  # what is not sealed is JSON, so begins otherwise
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True)
class Seal:
    """The public half of a vault's key, which clients are given: it reads nothing."""

    public: bytes  # X25519

    def seal(self, content: bytes, place: str) -> bytes:
        """Return ``content`` so that it can be read with the key, at ``place`` and nowhere else."""
        key = X25519PublicKey.from_public_bytes(self.public)
        return HEAD + SUITE.encrypt(content, key, place.encode())
