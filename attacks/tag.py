"""Find embeddings whose gradient is the observed one in L2 and in L1.

Source:      Deng et al., "TAG: Gradient Attack on Transformer-based Language Models", Findings of
             EMNLP 2021, arXiv:2103.06819; the settings from the code of LAMP (arXiv:2202.08827).
Assumes:     as DLG.
Recovers:    tokens, in poor order.
Deviations:  one factor for all layers, as in LAMP's code; ``last`` weighs the last layer's L1 term
             against the first's, linearly between (the paper weighs layers, breaching's from 1 to
             0).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from attacks.base import Attack
from attacks.matching import L2L1, Descent, Problem, depths
from fedsim.messages import Observation, Reconstruction


@dataclass(frozen=True, kw_only=True)
class Tag(Attack):
    """sum_p ||G - O||_2^2 + factor ||G - O||_1, from one random start."""

    factor: float = 0.01  # of the L1 term; >= 0
    last: float = 1.0  # the last layer's share of it; >= 0
    steps: int = 2500  # > 0
    learning_rate: float = 0.1  # > 0

    deviation: float = 1.0  # of the random start; > 0; token embeddings' own where they are small

    families: ClassVar[tuple[str, ...]] = ("bert", "gpt2", "llama")
    paper_knowledge: ClassVar[tuple[str, ...]] = ("batch_size", "labels", "lengths")

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "deviation"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("factor", "last"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")

    @override
    def _run(self, seen: Observation, generator: torch.Generator) -> Reconstruction:
        def distance(observed: Mapping[str, Tensor]) -> L2L1:
            places = depths(seen.model, observed)
            l1 = {n: self.factor * (1 + (self.last - 1) * at) for n, at in places.items()}
            return L2L1(l1=l1)

        problem = Problem(seen, generator, distance)
        if problem.silent:
            return Reconstruction(sequences=(), diagnostics=problem.notes)
        way = Descent(
            problem=problem,
            x=problem.gaussian(1, generator, self.deviation),
            targets=problem.first_targets(1),
            make=lambda moving: torch.optim.Adam(moving, lr=self.learning_rate),
        )
        for step in range(self.steps):
            way.step()
            problem.say(step, self.steps, way.best_loss, way.best)
        return problem.result(way.best, way.best_targets)
