"""Central differential privacy by Flower's wrapper: the server clips and noises.

Source:      McMahan et al., ICLR 2018, arXiv:1710.06963; Flower 1.41,
             DifferentialPrivacyServerSideFixedClipping.
Guarantee:   none against this server: each update reaches it as training made it, and noise comes
             after. It is about those who see the released model alone.
Deviations:  Flower's own; its noise is drawn from the run's seed, and is for the K clients that
             answered. The mean is weighted by examples: where their counts differ, the client of
             most moves it by more than clip / K.
"""

import math
from dataclasses import dataclass

from typing_extensions import override

from defenses.base import Defense, Setting
from fedsim.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class CentralDP(Defense):
    """Have the server clip each update to ``clip`` and noise the mean: it sees them raw."""

    noise_multiplier: float = 1.0  # z >= 0; on the mean of the K that came: z clip / K
    clip: float = 1.0  # of what an update moves the weights by, over all of them

    def __post_init__(self) -> None:
        if not 0.0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier must be >= 0, got {self.noise_multiplier}")
        if not 0.0 < self.clip < math.inf:
            raise ValueError(f"clip must be > 0, got {self.clip}")

    @override
    def check(self, setting: Setting) -> None:
        if sum(isinstance(defense, CentralDP) for defense in setting.defenses) > 1:
            raise BadInput("defense: central-dp can be there once, got it twice")

    @override
    def central(self) -> dict[str, float]:
        return {"noise_multiplier": self.noise_multiplier, "clipping_norm": self.clip}
