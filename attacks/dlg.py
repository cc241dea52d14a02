"""Find embeddings whose gradient is the observed one.

Source:      Zhu, Liu, Han, "Deep Leakage from Gradients", NeurIPS 2019, arXiv:1906.08935,
             algorithm 1; the settings for text from the code of LAMP (arXiv:2202.08827).
Assumes:     a gradient of the whole model or most of it, small batches, no dropout.
Recovers:    tokens, partly and in poor order. Labels that are not granted are read off the last
             map's gradient where it tells them, else optimised beside the embeddings.
Deviations:  known places (special tokens, padding) are held; Adam as in the text comparisons, the
             paper's L-BFGS by ``optimizer``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from attacks.matching import L2, SingleStart
from fedsim.messages import Observation

ROUND = 20  # iterations of one call of L-BFGS


@dataclass(frozen=True, kw_only=True)
class Dlg(SingleStart):
    """Squared L2 over all parameters, from one random start."""

    optimizer: Literal["adam", "lbfgs"] = "adam"  # L-BFGS: learning_rate is its first trial step

    precision: ClassVar[torch.dtype] = torch.float64  # see L2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer not in ("adam", "lbfgs"):
            raise ValueError(f"optimizer must be adam or lbfgs, got {self.optimizer!r}")

    @override
    def _distance(self, observation: Observation, observed: Mapping[str, Tensor]) -> L2:
        return L2()

    @override
    def _optimizer(self, moving: list[Tensor]) -> torch.optim.Optimizer:
        if self.optimizer == "adam":
            return super()._optimizer(moving)
        return torch.optim.LBFGS(
            moving, lr=self.learning_rate, max_iter=ROUND, line_search_fn="strong_wolfe"
        )

    @override
    def _rounds(self) -> int:
        return self.steps if self.optimizer == "adam" else -(-self.steps // ROUND)
