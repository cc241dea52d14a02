"""The shape of a client's batch: how many texts, and of how many tokens each."""

from dataclasses import dataclass

import torch

from attacks.reads import read_lengths
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation

MOST = 4096  # tokens of a batch


@dataclass(frozen=True)
class Shape:
    """A batch's lengths, in tokens with the special ones: as granted, or all the longest."""

    lengths: tuple[int, ...]
    spread: int = 0  # a simulated text may be shorter by so many

    def together(self, step: int, most: int) -> "Shape":
        """Return the shape that stands for all whose lengths are in one step, ``most`` its end."""
        longest = min(most, -(-self.longest // step) * step)
        shortest = min(self.lengths)
        return Shape((longest,) * self.texts, max(longest - shortest, step - 1))

    def drawn(self, least: int, generator: torch.Generator) -> tuple[int, ...]:
        """Return the lengths of a simulated client's texts, none below ``least``."""
        if not self.spread:
            return self.lengths
        less = torch.randint(self.spread + 1, (self.texts,), generator=generator).tolist()
        pairs = zip(self.lengths, less, strict=True)
        return tuple(max(min(least, length), length - short) for length, short in pairs)

    @property
    def texts(self) -> int:
        """B: how many texts."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """T: the tokens of the longest."""
        return max(self.lengths)


def shape_of(observation: Observation) -> Shape:
    """Return the shape of the batch, as granted or as the update tells.

    Raises:
        UnsupportedObservation: it is neither, or more than can be learned.
    """
    model, granted = observation.model, observation.knowledge
    size = observation.update.num_examples if granted.batch_size is None else granted.batch_size
    if size < 1:
        raise UnsupportedObservation(
            f"lti needs the batch size, got {size}: grant knowledge.batch_size where the update "
            "does not tell it"
        )
    lengths = granted.lengths or (_longest(observation),) * size
    shortest = max(1, len(model.prefix) + len(model.suffix))
    if len(lengths) != size:
        raise UnsupportedObservation(
            f"knowledge.lengths must name {size} lengths, one per example, got {len(lengths)}"
        )
    if not all(shortest <= length <= model.positions for length in lengths):
        wrong = next(n for n in lengths if not shortest <= n <= model.positions)
        raise UnsupportedObservation(
            f"knowledge.lengths must be in [{shortest}, {model.positions}], got {wrong}"
        )
    if size * max(lengths) > MOST:
        raise UnsupportedObservation(
            f"lti takes batches of at most {MOST} tokens, got {size} examples of up to "
            f"{max(lengths)}"
        )
    return Shape(tuple(lengths))


def _longest(observation: Observation) -> int:
    try:
        return read_lengths(observation)[0]
    except UnsupportedObservation as reason:
        why = str(reason).removeprefix("matching needs the lengths: ")
        raise UnsupportedObservation(f"lti needs the lengths: {why}") from reason
