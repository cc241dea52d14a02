"""One random start, one descent: what DLG and TAG have in common; each adds its distance."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from attacks.base import Attack
from attacks.matching.descent import Descent
from attacks.matching.distances import Distance
from attacks.matching.problem import Problem
from fedsim.messages import Observation, Reconstruction


@dataclass(frozen=True, kw_only=True)
class SingleStart(Attack):
    """Goes down a distance from dummies drawn from N(0, deviation^2), known places held."""

    steps: int = 2500  # gradients of dummies, about; > 0
    learning_rate: float = 0.1  # > 0
    deviation: float = 1.0  # of the random start; > 0; token embeddings' own where they are small

    kind: ClassVar = "matching"
    paper_knowledge: ClassVar[tuple[str, ...]] = ("batch_size", "labels", "lengths")
    precision: ClassVar[torch.dtype] = torch.float32  # of the observed gradient

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "deviation"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        problem = Problem(
            observation,
            generator,
            lambda observed: self._distance(observation, observed),
            dtype=self.precision,
        )
        if problem.silent:
            return Reconstruction(sequences=(), diagnostics=problem.notes)
        x = problem.gaussian(1, generator, self.deviation)
        way = Descent(problem=problem, x=x, targets=problem.first_targets(1), make=self._optimizer)
        rounds = self._rounds()
        for step in range(rounds):
            way.step()
            problem.say(step, rounds, way.best_loss, way.best)
        return problem.result(way.best, way.best_targets)

    @abstractmethod
    def _distance(self, observation: Observation, observed: Mapping[str, Tensor]) -> Distance:
        """Return the distance to the observed gradient."""

    def _optimizer(self, moving: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(moving, lr=self.learning_rate)

    def _rounds(self) -> int:
        """Return how often the optimizer is asked to step."""
        return self.steps
