"""Find embeddings whose gradient is the observed one in L2 and in L1.

Source:      Deng et al., "TAG: Gradient Attack on Transformer-based Language Models", Findings of
             EMNLP 2021, arXiv:2103.06819; the settings from the code of LAMP (arXiv:2202.08827).
Assumes:     as DLG.
Recovers:    tokens, in poor order.
Deviations:  one factor for all layers, as in LAMP's code; ``last`` weighs the last layer's L1 term
             against the first's, linearly between (the paper weighs layers, breaching's from 1 to
             0).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from attacks.matching import L2L1, SingleStart, depths
from fedsim.messages import Observation


@dataclass(frozen=True, kw_only=True)
class Tag(SingleStart):
    """sum_p ||G - O||_2^2 + factor ||G - O||_1, from one random start."""

    factor: float = 0.01  # of the L1 term; >= 0
    last: float = 1.0  # the last layer's share of it; >= 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("factor", "last"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")

    @override
    def _distance(self, observation: Observation, observed: Mapping[str, Tensor]) -> L2L1:
        depth_of = depths(observation.model, observed)
        l1 = {name: self.factor * (1 + (self.last - 1) * depth) for name, depth in depth_of.items()}
        return L2L1(l1=l1)
