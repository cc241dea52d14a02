"""Alternate descent on embeddings and dropout masks with a beam search over tokens.

Source:      Feng et al., "Uncovering Gradient Inversion Risks in Practical Language Model
             Training" (GRAB), CCS 2024, arXiv:2507.21198, algorithms 1 to 3.
Assumes:     as DLG; with dropout on at the client its rates (the model's), not its masks.
Recovers:    most tokens in order; with dropout and frozen embeddings more than LAMP.
Deviations:  the beam search compares by the L2 part of the distance: norms and inner products,
             which cached parts of the batch add up to, tell it; a batch of tokens is scored once.
             Told of a defense, it compares whole batches by the distance adapted to that.
             The descent ends when no token has changed for ``patience`` steps, the beam search when
             its beams stand still. No penalty on the similarity of sentences (it only picked among
             candidates), and unknown labels are optimised as logits. ``distance`` = "cosine" with
             ``alpha_norm`` = 1 takes LAMP's distance in its place, for models where one tensor's
             gradient (a head's) is so large that the others hardly count.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from attacks.base import Attack
from attacks.matching import L2L1, Cosine, Descent, Problem, TokenScores, near
from fedsim.messages import Observation, Reconstruction
from fedsim.training import TrainingSettings

READ = 50  # steps between two looks at the tokens


@dataclass(frozen=True, kw_only=True)
class Grab(Attack):
    """sum_p ||G - O||_2 + alpha_l1 ||G - O||_1 over embeddings and masks, then over tokens."""

    distance: Literal["l2l1", "cosine"] = "l2l1"
    alternations: int = 5  # of both parts, the paper's hybrid rounds; > 0
    steps: int = 2000  # of a descent; > 0
    learning_rate: float = 0.01  # > 0; times 0.89 every 50 steps
    starts: int = 2000  # random starts, and as many orders of the best; > 0
    iterations: int = 5  # of a beam search; >= 0
    beams: int = 4  # batches kept at a time, and beam searches a round; > 0
    alpha_l1: float = 0.01  # >= 0
    alpha_norm: float = 0.0  # weight of the squared error of the mean norm; >= 0
    learn_dropout: bool = True  # where the client's config turns dropout on
    patience: int = 300  # steps without a changed token before a descent ends; 0: never

    kind: ClassVar = "matching"
    paper_knowledge: ClassVar[tuple[str, ...]] = ("batch_size", "labels", "lengths")

    def __post_init__(self) -> None:
        if self.distance not in ("cosine", "l2l1"):
            raise ValueError(f"distance must be cosine or l2l1, got {self.distance!r}")
        for name in ("alternations", "steps", "learning_rate", "starts", "beams"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("iterations", "alpha_l1", "alpha_norm", "patience"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        def distance(observed: Mapping[str, Tensor]) -> Cosine | L2L1:
            if self.distance == "cosine":
                return Cosine()
            return L2L1(l1=dict.fromkeys(observed, self.alpha_l1), power=1)

        problem = Problem(observation, generator, distance)
        dropout = TrainingSettings.from_config(observation.broadcast.config).dropout
        learns = dropout and self.learn_dropout
        problem.notes["learns_dropout"] = learns
        if problem.silent:
            return Reconstruction(sequences=(), diagnostics=problem.notes)
        masks = problem.engine.dropout_masks(generator) if learns else None
        return self._search(problem, masks, generator)

    def _search(
        self, problem: Problem, masks: list[Tensor] | None, generator: torch.Generator
    ) -> Reconstruction:
        targets = problem.first_targets(1)
        x = self._first(problem, targets, masks, generator)
        pools: list[set[int]] = [set() for _ in problem.frame.tokens]
        previous: Tensor | None = None
        computed = done = 0
        best, best_distance = problem.frame.tokens, torch.inf
        for _ in range(self.alternations):
            done += 1
            x, targets, masks = self._descend(problem, x, targets, masks)
            scores = TokenScores(problem, targets, masks, self.distance == "cosine")
            continuous = problem.read(x)[0]  # (B, T)
            self._gather(problem, pools, continuous)
            known = [continuous, *([] if previous is None else [previous])]
            discrete = self._discrete(problem, scores, known, pools, generator)
            computed += scores.computed
            sums = scores.whole(torch.stack([continuous, discrete]))
            least = int(sums.argmin())
            if float(sums[least]) < best_distance or masks is not None:
                best, best_distance = (continuous, discrete)[least], float(sums[least])
            still = torch.equal(discrete, continuous)
            if still or (previous is not None and torch.equal(discrete, previous)):
                break
            previous = discrete
            orders = self._orders(problem, discrete, self.starts, generator)
            x = problem.engine.embed(orders[scores.whole(orders).argmin()])[None]
        notes = {
            **problem.notes,
            "alternations": done,
            "computed": computed,
            "distance": best_distance,
        }
        return Reconstruction(sequences=problem.texts(best), diagnostics=problem.notes | notes)

    def _first(
        self,
        problem: Problem,
        targets: Tensor,
        masks: list[Tensor] | None,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the best of ``starts`` random starts, in the best of as many orders."""
        x = problem.rescale(problem.gaussian(self.starts, generator))
        rough = None if problem.adapts else near(problem.observed, self.distance == "cosine")
        x = x[problem.score(x, targets, masks, rough).argmin()][None]
        x = problem.shuffled(x, self.starts, generator)
        return x[problem.score(x, targets, masks, rough).argmin()][None]

    def _descend(
        self, problem: Problem, x: Tensor, targets: Tensor, masks: list[Tensor] | None
    ) -> tuple[Tensor, Tensor, list[Tensor] | None]:
        """Return embeddings, labels and masks after the continuous part (algorithm 2)."""
        leaves = None if masks is None else [mask.clone().requires_grad_() for mask in masks]
        way = Descent(
            problem=problem,
            x=x,
            targets=targets,
            make=lambda moving: torch.optim.AdamW(moving, lr=self.learning_rate),
            decay=0.89,
            penalty=lambda x: self.alpha_norm * (x.norm(dim=-1).mean() - problem.size) ** 2,
            masks=leaves,
        )
        before, changed = problem.read(way.x.detach()), 0
        for step in range(self.steps):
            way.step()
            problem.say(step, self.steps, way.best_loss, way.best)
            if step % READ:
                continue
            now = problem.read(way.x.detach())
            before, changed = now, changed if torch.equal(now, before) else step
            if self.patience and step - changed >= self.patience:
                break
        learned = None if leaves is None else [mask.detach() for mask in leaves]
        return way.x.detach(), way.targets.detach(), learned

    def _gather(self, problem: Problem, pools: list[set[int]], ids: Tensor) -> None:
        """Add the tokens of ``ids`` to those that each sequence may be made of."""
        special = set(problem.model.suffix) | {problem.model.pad}
        for row, pool in enumerate(pools):
            pool |= set(ids[row][problem.frame.free[row]].tolist())
            if not problem.frame.exact_lengths:
                pool |= special

    def _orders(
        self, problem: Problem, ids: Tensor, count: int, generator: torch.Generator
    ) -> Tensor:
        """Return ``ids`` (B, T) and ``count`` batches with each sequence's free tokens shuffled."""
        batches = {tuple(ids.flatten().tolist()): ids}
        places = [free.nonzero().flatten() for free in problem.frame.free]
        for _ in range(count):
            batch = ids.clone()
            for row, at in enumerate(places):
                order = torch.randperm(len(at), generator=generator).to(at.device)
                batch[row, at] = batch[row, at[order]]
            batches.setdefault(tuple(batch.flatten().tolist()), batch)
        return torch.stack(list(batches.values()))

    def _discrete(
        self,
        problem: Problem,
        scores: TokenScores,
        known: list[Tensor],
        pools: list[set[int]],
        generator: torch.Generator,
    ) -> Tensor:
        """Return the best batch of tokens (B, T) that beam searches find (algorithm 3)."""
        first = torch.cat(
            [
                self._orders(problem, known[0], self.starts, generator),
                *(ids[None] for ids in known[1:]),
            ]
        )
        chosen = scores.whole(first).argsort()[: self.beams]
        best: tuple[float, Tensor] | None = None
        for start in first[chosen]:
            candidate = self._beam(problem, scores, start, pools)
            if best is None or candidate[0] < best[0]:
                best = candidate
        assert best is not None
        return best[1]

    def _beam(
        self, problem: Problem, scores: TokenScores, start: Tensor, pools: list[set[int]]
    ) -> tuple[float, Tensor]:
        """Replace one token after the other, the ``beams`` best batches at a time."""
        beams = [(float(scores.replaced(start, 0, start[[0]])[0]), start)]
        for _ in range(self.iterations):
            before = [ids for _, ids in beams]
            for row, column in problem.frame.free.nonzero().tolist():
                beams = self._replace(scores, beams, row, column, sorted(pools[row]))
            same = len(before) == len(beams)
            if same and all(torch.equal(a, b[1]) for a, b in zip(before, beams, strict=True)):
                break
        return beams[0]

    def _replace(
        self,
        scores: TokenScores,
        beams: list[tuple[float, Tensor]],
        row: int,
        column: int,
        tokens: list[int],
    ) -> list[tuple[float, Tensor]]:
        """Return the best batches with any of ``tokens`` at one place of the ``beams``."""
        candidates = {tuple(batch.flatten().tolist()): (score, batch) for score, batch in beams}
        for _, ids in beams:
            texts = ids[row].repeat(len(tokens), 1)
            texts[:, column] = torch.tensor(tokens, device=ids.device)
            for text, score in zip(texts, scores.replaced(ids, row, texts).tolist(), strict=True):
                changed = ids.clone()
                changed[row] = text
                candidates.setdefault(tuple(changed.flatten().tolist()), (score, changed))
        return sorted(candidates.values(), key=lambda candidate: candidate[0])[: self.beams]
