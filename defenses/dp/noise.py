"""Gaussian noise that tells nothing of itself: from a stream cipher, not from torch's generator.

Source:      ChaCha20 (RFC 8439) under a key that the generator draws; Box & Muller, Ann. Math.
             Stat. 29 (1958), in float64.

Where a gradient is known to be zero (the embedding of a token that no text has) the noise is seen
as it is. Torch's generator, a Mersenne twister, is linear: from some thousand such numbers its
state follows, and with it the noise on all the others.
"""

import math

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from torch import Tensor

PART = 2**20  # pairs of numbers made at a time
BITS = 53  # of a uniform number, as many as float64 has


def normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return independent numbers of N(0, 1), float32, on the CPU.

    Args:
        shape: of the result.
        generator: on the CPU; it draws a key, and no more.
    """
    key = torch.randint(256, (32,), dtype=torch.uint8, generator=generator).numpy().tobytes()
    cipher = Cipher(ChaCha20(key, b"\0" * 16), mode=None).encryptor()
    pairs, parts = -(-shape.numel() // 2), [torch.empty(0)]
    for start in range(0, pairs, PART):
        count = min(PART, pairs - start)
        words = np.frombuffer(cipher.update(b"\0" * (16 * count)), dtype="<u8") >> (64 - BITS)
        first, second = torch.from_numpy(words.reshape(2, count).astype(np.float64) * 2.0**-BITS)
        radius, angle = (-2.0 * torch.log1p(-first)).sqrt(), 2.0 * math.pi * second
        parts += [(radius * angle.cos()).float(), (radius * angle.sin()).float()]
    return torch.cat(parts)[: shape.numel()].view(shape)
