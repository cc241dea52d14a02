"""Alternate descent on embeddings with rearrangements that a language model finds fluent.

Source:      Balunović, Dimitrov, Jovanović, Vechev, "LAMP: Extracting Text from Gradients with
             Language Model Priors", NeurIPS 2022, arXiv:2202.08827, algorithm 1; settings from its
             code, variant cos (``distance`` = "l2l1" with alphas 60 and 25, and with a prior
             ``relative_nats`` = False: the other variant).
Assumes:     as DLG; a prior for the order of words.
Recovers:    most tokens of one short sentence, in order for the most part; less of larger batches.
Deviations:  padding is hidden by the mask, as the client hides it; a rearrangement stays within its
             own sentence; none is tried twice, nor one that its nats alone rule out; the descent
             ends when no token has changed for ``patience`` rounds. Without ``prior`` the score has
             no nats, and the record says so; with one they count relative to the distance, or a
             weak prior overrules a gradient that is all but matched.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from attacks.base import Attack
from attacks.matching import L2L1, Cosine, Descent, Prior, Problem, Reorder, check_prior, least
from fedsim.errors import BadInput, UnsupportedObservation
from fedsim.messages import Observation, Reconstruction
from fedsim.models import ModelAdapter
from fedsim.types import Tokens

FIRST = 0.1  # of the steps: rearrangements begin after them


@dataclass(frozen=True, kw_only=True)
class Lamp(Attack):
    """Cosine distance, embeddings kept at their usual norm, now and then rearrangements."""

    distance: Literal["cosine", "l2l1"] = "cosine"
    steps: int = 2000  # > 0
    learning_rate: float = 0.01  # > 0; times 0.89 every 50 steps
    starts: int = 500  # random starts, and as many orders of the best; > 0
    tries: int = 200  # rearrangements of a sentence each time; >= 0
    every: int = 75  # steps between them; > 0
    alpha_nats: float = 0.2  # weight of the prior's nats a token; >= 0
    relative_nats: bool = True  # they count times the distance; False: as they are, the paper's way
    alpha_norm: float = 1.0  # weight of the squared error of the mean norm; >= 0
    prior: str = ""  # a directory with a causal language model; "": none
    patience: int = 4  # rounds without a changed token before it ends; 0: never

    kind: ClassVar = "matching"
    paper_knowledge: ClassVar[tuple[str, ...]] = ("batch_size", "labels", "lengths")
    paths: ClassVar[tuple[str, ...]] = ("prior",)

    def __post_init__(self) -> None:
        if self.distance not in ("cosine", "l2l1"):
            raise ValueError(f"distance must be cosine or l2l1, got {self.distance!r}")
        for name in ("steps", "learning_rate", "starts", "every"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("tries", "alpha_nats", "alpha_norm", "patience"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        check_prior(self.prior)

    @override
    def check(self, model: ModelAdapter) -> None:
        super().check(model)
        try:
            if self.prior:
                Prior(self.prior, model)
        except UnsupportedObservation as reason:
            raise BadInput(f"attack {type(self).__name__.lower()}: {reason}") from reason

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        def distance(observed: Mapping[str, Tensor]) -> Cosine | L2L1:
            return Cosine() if self.distance == "cosine" else L2L1(l1=dict.fromkeys(observed, 0.01))

        problem = Problem(observation, generator, distance, self._names(observation))
        prior = Prior(self.prior, observation.model) if self.prior else None
        problem.notes |= {
            "prior": prior is not None,
            "prior_own_tokens": bool(prior and prior.same),
        }
        if problem.silent:
            return Reconstruction(sequences=(), diagnostics=problem.notes)
        return self._search(problem, prior, generator)

    def _names(self, observation: Observation) -> Sequence[str] | None:
        """Return the parameters to match; None: all."""
        return None

    def _search(
        self, problem: Problem, prior: Prior | None, generator: torch.Generator
    ) -> Reconstruction:
        x = self._start(problem, generator)
        way = Descent(
            problem=problem,
            x=x,
            targets=problem.first_targets(1),
            make=lambda moving: torch.optim.Adam(moving, lr=self.learning_rate),
            decay=0.89,
            penalty=lambda x: self.alpha_norm * (x.norm(dim=-1).mean() - problem.size) ** 2,
        )
        reorder = Reorder(problem=problem, tries=self.tries, weight=self.alpha_nats, prior=prior,
                          relative=self.relative_nats)  # fmt: skip
        still, before = 0, tuple[Tokens, ...]()
        for step in range(self.steps):
            way.step()
            problem.say(step, self.steps, way.best_loss, way.best)
            if (step - 1) % self.every or step < FIRST * self.steps:
                continue
            way.place(*reorder.best(way.x.detach(), way.targets.detach(), None, generator))
            now = problem.texts(problem.read(way.x.detach())[0])
            still, before = still + 1 if now == before else 0, now
            if self.patience and still >= self.patience:
                break
        return problem.result(
            way.best, way.best_targets, steps=way.steps, rearranged=reorder.scored
        )

    def _start(self, problem: Problem, generator: torch.Generator) -> Tensor:
        """Return the best of ``starts`` random starts, in the best of as many orders."""
        targets = problem.first_targets(1)
        x = problem.gaussian(self.starts, generator)
        best = x[least(problem, x, targets)[0]][None]
        x = problem.shuffled(best, self.starts, generator)
        return problem.rescale(x[least(problem, x, targets)[0]][None])
