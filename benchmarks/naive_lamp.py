"""LAMP as the papers' code computes it: plain autograd, one candidate at a time.

For comparison alone. Written from the algorithm, not from that code: cosine distances between whole
gradient matrices, ``create_graph`` in every evaluation, as the references have it.
"""

import time

import torch
from torch import Tensor

from attacks.matching import Problem, TokenScores
from fedsim.messages import Observation

TIMED = 5


class NaiveLamp:
    """Times one step and one candidate of the plain loop."""

    def __init__(self, seen: Observation, generator: torch.Generator) -> None:
        self._module = seen.model.load(seen.broadcast.parameters)
        self._labels = torch.tensor(seen.knowledge.labels)
        lengths = seen.knowledge.lengths or ()
        size = (len(lengths), max(lengths), seen.model.width)
        self._x = torch.randn(size, generator=generator).requires_grad_()
        words = {id(self._module.get_input_embeddings().weight)}
        slots = dict(self._module.named_parameters())
        self._names = [n for n in seen.update.tensors if id(slots[n]) not in words]
        self._weights = [slots[name] for name in self._names]
        self._observed = [seen.update.tensors[name] for name in self._names]

    def _loss(self) -> Tensor:
        loss = self._module(inputs_embeds=self._x, labels=self._labels).loss
        gradients = torch.autograd.grad(loss, self._weights, create_graph=True)
        parts = [
            1 - (g * o).sum() / (g.norm() * o.norm() + 1e-9)
            for g, o in zip(gradients, self._observed, strict=True)
        ]
        return torch.stack(parts).mean()

    def seconds(self) -> tuple[float, float]:
        """Return what one step and one candidate take, in processor seconds."""
        optimizer = torch.optim.Adam([self._x], lr=0.01)
        times = []
        for steps in (True, False):
            started = time.process_time()
            for _ in range(TIMED):
                loss = self._loss()
                if steps:
                    optimizer.zero_grad()
                    self._x.grad = torch.autograd.grad(loss, self._x)[0]
                    optimizer.step()
            times.append((time.process_time() - started) / TIMED)
        return times[0], times[1]


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
