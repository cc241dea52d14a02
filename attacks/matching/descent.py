"""Follow the slope of a problem's distance down to better dummies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.matching.problem import Problem

MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
Penalty = Callable[[Tensor], Tensor]


@dataclass(kw_only=True)
class Descent:
    """One batch of dummies under way, and the best that was seen of it.

    Attributes:
        x: (1, B, T, D), a leaf; known places stay as they are.
        targets: label ids, or logits (a leaf) that are optimised as well.
        penalty: added to the distance, of ``x``.
        masks: dropout's, leaves that are optimised as well; None: it is off.
        best: the dummies of the least distance plus penalty, and that sum.
    """

    problem: Problem
    x: Tensor
    targets: Tensor
    make: MakeOptimizer
    decay: float = 1.0
    every: int = 50
    penalty: Penalty | None = None
    masks: Sequence[Tensor] | None = None
    steps: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.x = self.x.detach().clone().requires_grad_()
        self.best, self.best_targets, self.best_loss = (
            self.x.detach().clone(),
            self.targets,
            torch.inf,
        )
        moving = [self.x, *(self.masks or ())]
        if self.targets.is_floating_point():
            self.targets = self.targets.detach().clone().requires_grad_()
            moving.append(self.targets)
        self._moving = moving
        self._optimizer = self.make(moving)
        self._schedule = torch.optim.lr_scheduler.StepLR(self._optimizer, self.every, self.decay)
        self._free = self.problem.frame.free[None, :, :, None]

    def step(self) -> None:
        """Go one step; of L-BFGS, one of its own line searches."""
        self._optimizer.step(self._closure)
        self._schedule.step()
        self.problem.pin(self.x.data)
        for mask in self.masks or ():
            mask.data.clamp_(0.0, 1.0)
        self.steps += 1

    @torch.no_grad()
    def place(self, x: Tensor, targets: Tensor) -> None:
        """Go on from ``x`` and ``targets``; the optimizer's moments stay."""
        self.x.copy_(x)
        if self.targets.is_floating_point():
            self.targets.copy_(targets)

    def _closure(self) -> float:
        with torch.enable_grad():
            total = self.problem.loss(self.x, self.targets, self.masks).sum()
            if self.penalty is not None:
                total = total + self.penalty(self.x)
        slopes = torch.autograd.grad(total, self._moving)
        for leaf, slope in zip(self._moving, slopes, strict=True):
            leaf.grad = slope
        self.x.grad = slopes[0] * self._free
        loss = total.item()
        if loss < self.best_loss:
            self.best, self.best_loss = self.x.detach().clone(), loss
            self.best_targets = self.targets.detach().clone()
        return loss
