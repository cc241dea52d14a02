"""Find embeddings whose gradient is the observed one.

Source:      Zhu, Liu, Han, "Deep Leakage from Gradients", NeurIPS 2019, arXiv:1906.08935,
             algorithm 1; the settings for text from the code of LAMP (arXiv:2202.08827).
Assumes:     a gradient of the whole model or most of it, small batches, no dropout.
Recovers:    tokens, partly and in poor order. Labels that are not granted are read off the last
             map's gradient where it tells them, else optimised beside the embeddings.
Deviations:  known places (special tokens, padding) are held; Adam as in the text comparisons, the
             paper's L-BFGS by ``optimizer``.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from attacks.base import Attack
from attacks.matching import L2, Descent, Problem
from fedsim.messages import Observation, Reconstruction

ROUND = 20  # iterations of one call of L-BFGS


@dataclass(frozen=True, kw_only=True)
class Dlg(Attack):
    """Squared L2 over all parameters, from one random start."""

    optimizer: Literal["adam", "lbfgs"] = "adam"
    steps: int = 2500  # gradients of dummies, about; > 0
    learning_rate: float = 0.1  # > 0; of L-BFGS the first trial step

    deviation: float = 1.0  # of the random start; > 0; token embeddings' own where they are small

    families: ClassVar[tuple[str, ...]] = ("bert", "gpt2", "llama")
    paper_knowledge: ClassVar[tuple[str, ...]] = ("batch_size", "labels", "lengths")

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "deviation"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")

    @override
    def _run(self, seen: Observation, generator: torch.Generator) -> Reconstruction:
        problem = Problem(seen, generator, lambda _: L2())
        if problem.silent:
            return Reconstruction(sequences=(), diagnostics=problem.notes)
        x = problem.gaussian(1, generator, self.deviation)
        way = Descent(problem=problem, x=x, targets=problem.first_targets(1), make=self._optimizer)
        rounds = self.steps if self.optimizer == "adam" else -(-self.steps // ROUND)
        for step in range(rounds):
            way.step()
            problem.say(step, rounds, way.best_loss, way.best)
        return problem.result(way.best, way.best_targets)

    def _optimizer(self, moving: list[Tensor]) -> torch.optim.Optimizer:
        if self.optimizer == "adam":
            return torch.optim.Adam(moving, lr=self.learning_rate)
        return torch.optim.LBFGS(
            moving, lr=self.learning_rate, max_iter=ROUND, line_search_fn="strong_wolfe"
        )
