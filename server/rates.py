"""The learning rate of each round, which the server tells its clients."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RoundScheduler = Literal["constant", "linear", "cosine"]
RATE = "learning_rate"


@dataclass(frozen=True, kw_only=True)
class RoundRates:
    """Falls from ``first`` to ``last``, which round ``rounds`` has, as FlowerTune's does.

    Its ``cosine_annealing`` counts rounds from 1, so that the first has a little less than
    ``first`` (adap/flower, examples/flowertune-llm).
    """

    first: float
    last: float = 0.0
    rounds: int = 1
    scheduler: RoundScheduler = "constant"

    def at(self, round_: int) -> float:
        """Return the rate of a round, the first being 1."""
        if self.scheduler == "constant":
            return self.first
        done = min(1.0, round_ / self.rounds)
        left = 1.0 - done if self.scheduler == "linear" else (1.0 + math.cos(math.pi * done)) / 2
        return self.last + (self.first - self.last) * left


def told(config: Mapping[str, object], usual: float) -> float:
    """Return the learning rate in a round's training config; ``usual`` where it has none."""
    rate = config.get(RATE)
    return float(rate) if isinstance(rate, int | float) else usual
