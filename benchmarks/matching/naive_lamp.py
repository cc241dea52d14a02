"""LAMP as the papers' code computes it: plain autograd, one candidate at a time.

For comparison alone. Written from the algorithm, not from that code: cosine distances between whole
gradient matrices, ``create_graph`` in every evaluation, as the references have it. No prior.
"""

import time

import torch
from torch import Tensor

from attacks import Lamp
from attacks.matching import Cosine, Problem, TokenScores
from attacks.matching.reorder import ends, moved
from fedsim.messages import Observation
from fedsim.types import Tokens


class NaiveLamp:
    """The plain loop."""

    def __init__(self, seen: Observation, generator: torch.Generator) -> None:
        self._problem = Problem(seen, generator, lambda _: Cosine())
        self._generator = generator
        self._module = seen.model.load(seen.broadcast.parameters)
        self._labels = torch.tensor(seen.knowledge.labels)
        slots = dict(self._module.named_parameters())
        self._weights = [slots[name] for name in self._problem.observed]
        self._observed = list(self._problem.observed.values())

    def _distance(self, x: Tensor) -> Tensor:
        loss = self._module(inputs_embeds=x, labels=self._labels).loss
        gradients = torch.autograd.grad(loss, self._weights, create_graph=True)
        parts = [
            1 - (g * o).sum() / (g.norm() * o.norm() + 1e-9)
            for g, o in zip(gradients, self._observed, strict=True)
        ]
        return torch.stack(parts).mean()

    def _least(self, candidates: Tensor) -> Tensor:
        found = [self._distance(one.detach().requires_grad_()).item() for one in candidates]
        return candidates[int(torch.tensor(found).argmin())]

    def run(self, settings: Lamp) -> tuple[tuple[Tokens, ...], list[float]]:
        """Return the texts of one sentence's update, and the processor seconds of each step."""
        problem, generator = self._problem, self._generator
        x = self._least(problem.gaussian(settings.starts, generator))
        x = self._least(problem.shuffled(x[None], settings.starts, generator))
        x = problem.rescale(x[None])[0].requires_grad_()
        optimizer = torch.optim.Adam([x], lr=settings.learning_rate)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 50, 0.89)
        best, least, times = x.detach().clone(), torch.inf, []
        for step in range(settings.steps):
            started = time.process_time()
            loss = self._step(x, optimizer, settings.alpha_norm)
            schedule.step()
            times.append(time.process_time() - started)
            if loss < least:
                best, least = x.detach().clone(), loss
            if step % settings.every == 1 and step >= 0.1 * settings.steps:
                x.data.copy_(self._least(self._rearranged(x.detach(), settings.tries)))
        return problem.texts(problem.read(best)), times

    def _rearranged(self, x: Tensor, count: int) -> Tensor:
        """Return ``x`` (1, T, D) and ``count`` rearrangements of it, as drawn: (1 + count, ...)."""
        first, last = ends(self._problem, 0)
        orders = [list(range(x.shape[1]))]
        for number in range(count if last - first > 1 else 0):
            order = moved(range(first, last), number, self._generator)
            orders.append([*range(first), *order, *range(last, x.shape[1])])
        return x[0][torch.tensor(orders)][:, None]

    def _step(self, x: Tensor, optimizer: torch.optim.Optimizer, weight: float) -> float:
        optimizer.zero_grad()
        loss = self._distance(x)
        loss = loss + weight * (x.norm(dim=-1).mean() - self._problem.size) ** 2
        x.grad = torch.autograd.grad(loss, x)[0]
        optimizer.step()
        self._problem.pin(x.data[None])
        return float(loss)


def naive_distance(seen: Observation, ids: Tensor, problem: Problem, scores: TokenScores) -> float:
    """Return sum_p ||G - O||_2 of a whole batch of tokens by plain back-propagation."""
    module = seen.model.module
    slots = dict(module.named_parameters())
    mask = problem.frame.mask.long()
    loss = module(input_ids=ids, attention_mask=mask, labels=problem.frame.labels).loss
    names = list(scores.observed)
    gradients = torch.autograd.grad(loss, [slots[name] for name in names])
    parts = [(g - scores.observed[n]).norm() for n, g in zip(names, gradients, strict=True)]
    return float(torch.stack(parts).sum())
