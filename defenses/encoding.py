"""How many bytes an update takes on the wire, as compression would encode it.

The simulated wire always carries whole float tensors, so that any Flower strategy can read them;
what an encoding of them would take is counted here, and reported beside the leakage.
"""

import math
from dataclasses import dataclass, replace

from fedsim.types import Parameters


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The parts of an encoded update."""

    entries: int  # numbers in the update
    values: int  # numbers that are sent
    value_bits: int  # bits a number that is sent
    extra_bits: int = 0  # indices, scales, seeds

    def __post_init__(self) -> None:
        assert 0 <= self.values <= self.entries and self.value_bits > 0 <= self.extra_bits

    @property
    def bytes(self) -> int:
        """Its size, in bytes."""
        return math.ceil((self.values * self.value_bits + self.extra_bits) / 8)

    def kept(self, values: int, extra_bits: int) -> "Encoding":
        """Return the encoding when only ``values`` numbers are sent, for ``extra_bits`` more."""
        return replace(self, values=values, extra_bits=self.extra_bits + extra_bits)

    def rounded(self, value_bits: int, extra_bits: int) -> "Encoding":
        """Return the encoding with numbers of ``value_bits``, for ``extra_bits`` more."""
        return replace(self, value_bits=value_bits, extra_bits=self.extra_bits + extra_bits)


def plain(tensors: Parameters) -> Encoding:
    """Return the encoding of ``tensors`` as they are: every number in its own dtype."""
    sizes = [(tensor.numel(), 8 * tensor.element_size()) for tensor in tensors.values()]
    widest = max((bits for _, bits in sizes), default=32)
    entries = sum(count for count, _ in sizes)
    return Encoding(entries=entries, values=entries, value_bits=widest)


def index_bits(kept: int, entries: int) -> int:
    """Return what it takes to say which ``kept`` of ``entries`` are sent, in bits.

    A list of indices or a bit for each entry, whichever is shorter.
    """
    return min(entries, kept * max(1, math.ceil(math.log2(max(entries, 2)))))
