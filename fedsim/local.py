"""Local training: a gradient for FedSGD, a delta for FedAvg.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        AISTATS 2017, arXiv:1602.05629, algorithm 1. FedSGD uploads the gradient itself: recovered
        from float32 weights as (w0 - w1) / lr it would be 5 % wrong at lr 1e-4.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from fedsim.messages import Broadcast, Update
from fedsim.models import ModelAdapter
from fedsim.rng import global_stream, stream
from fedsim.training import (
    MOMENTUM,
    Examples,
    Gradient,
    Training,
    TrainingSettings,
    mean_gradient,
)
from fedsim.types import Parameters

ADAMW_DECAY = 0.01  # torch's default


@dataclass(frozen=True)
class LocalTraining(Training):
    """One client's training in ``adapter``'s workspace; dropout draws from torch's own stream."""

    adapter: ModelAdapter
    settings: TrainingSettings
    gradient: Gradient = mean_gradient  # of one batch: what DP-SGD puts its own in place of

    @override
    def __call__(
        self, parameters: Parameters, examples: Examples, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], float]:
        module = self.adapter.load(parameters).train(self.settings.dropout)
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        try:
            if self.settings.algorithm == "fedsgd":
                return self._gradient(module, trained, examples, generator)
            return self._delta(module, trained, parameters, examples, generator)
        finally:
            self.adapter.loads += self.settings.algorithm == "fedavg"  # its weights are others now
            module.zero_grad(set_to_none=True)
            module.eval()

    def _gradient(
        self,
        module: nn.Module,
        trained: dict[str, nn.Parameter],
        examples: Examples,
        generator: torch.Generator,
    ) -> tuple[dict[str, Tensor], float]:
        """Return dL/dθ of the whole batch; zeros where the loss does not reach."""
        module.zero_grad(set_to_none=True)
        loss = self._step(module, examples, generator)
        gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
            for name, p in trained.items()
        }
        return gradients, loss

    def _step(self, module: nn.Module, examples: Examples, generator: torch.Generator) -> float:
        """Leave a step's gradient in ``grad``; one autocast a step, which keeps casts of weights.

        One around all steps would go on with the weights of the first.
        """
        if self.settings.compute_dtype == "float32":
            return self.gradient(module, self.adapter, examples, generator)
        with torch.autocast(self.adapter.device.type, torch.bfloat16):
            return self.gradient(module, self.adapter, examples, generator)

    def _delta(
        self,
        module: nn.Module,
        trained: dict[str, nn.Parameter],
        sent: Parameters,
        examples: Examples,
        generator: torch.Generator,
    ) -> tuple[dict[str, Tensor], float]:
        """Return θ_local - θ_global after the local epochs, and the mean loss of the last one."""
        optimizer = make_optimizer(self.settings, list(trained.values()))
        drawn = None if examples.steps is None else len(examples.steps)
        count = self.settings.steps(len(examples)) if drawn is None else drawn
        rate = make_scheduler(self.settings, optimizer, count)
        losses: list[float] = []
        for steps in self._epochs(examples, generator):
            losses = []
            for rows in steps:
                optimizer.zero_grad(set_to_none=True)
                some = examples.take(rows)
                losses.append(self._step(module, some, generator))
                if self.settings.proximal_mu:
                    self._add_proximal(trained, sent)
                if self.settings.max_grad_norm:
                    nn.utils.clip_grad_norm_(trained.values(), self.settings.max_grad_norm)
                optimizer.step()
                rate.step()
        delta = {name: p.detach() - sent[name].to(p.device) for name, p in trained.items()}
        return delta, sum(losses) / len(losses)

    def _epochs(self, examples: Examples, generator: torch.Generator) -> Iterator[list[list[int]]]:
        """Yield each local epoch's steps, as rows of ``examples``."""
        size, left = self.settings.mini_batch_size, self.settings.steps(len(examples))
        if examples.steps is not None:  # drawn beforehand, all epochs' steps one after the other
            steps = [list(rows) for rows in examples.steps]
            epochs = 1 if self.settings.max_steps else self.settings.local_epochs
            each = len(steps) // epochs
            yield from (steps[place * each : (place + 1) * each] for place in range(epochs))
            return
        while left > 0:
            order = torch.randperm(len(examples), generator=generator).tolist()
            steps = [order[start : start + size] for start in range(0, len(order), size)][:left]
            left -= len(steps)
            yield steps

    def _add_proximal(self, trained: dict[str, nn.Parameter], sent: Parameters) -> None:
        """Add FedProx's term (Li et al., MLSys 2020, arXiv:1812.06127, eq. 2) to the gradient.

        It is of the weights alone, so nothing that is done to examples' gradients concerns it.
        """
        for name, p in trained.items():
            pull = self.settings.proximal_mu * (p.detach() - sent[name].to(p.device))
            p.grad = pull if p.grad is None else p.grad + pull


def simulated_update(
    adapter: ModelAdapter,
    broadcast: Broadcast,
    examples: Examples,
    seed: int,
    *name: str | int,
    gradient: Gradient = mean_gradient,
) -> Update:
    """Return what an undefended client with ``examples`` would have answered to ``broadcast``.

    Args:
        adapter: whose workspace is trained in.
        broadcast: the weights and the training config.
        examples: of the simulated client.
        seed: with ``name`` of all that is random.
        name: of the random stream.
        gradient: of one step.
    """
    settings = TrainingSettings.from_config(broadcast.config)
    training = LocalTraining(adapter, settings, gradient=gradient)
    with torch.enable_grad(), global_stream(seed, *name, "dropout"):
        tensors, loss = training(broadcast.parameters, examples, stream(seed, *name))
    dtype = getattr(torch, settings.wire_dtype)
    return Update(
        tensors={key: tensor.to("cpu", dtype) for key, tensor in tensors.items()},
        kind="gradient" if settings.algorithm == "fedsgd" else "delta",
        num_examples=len(examples),
        metrics={"train_loss": loss},
    )


def make_scheduler(
    settings: TrainingSettings, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return what sets the learning rate of each of a round's ``steps``, as transformers does."""
    from transformers import get_scheduler  # here: it takes half a second

    warm = settings.lr_scheduler == "constant" and settings.warmup_steps > 0
    kind = "constant_with_warmup" if warm else settings.lr_scheduler
    made: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
        kind, optimizer, settings.warmup_steps, steps
    )
    return made


def make_optimizer(
    settings: TrainingSettings, parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the local optimizer; its state does not outlive the round."""
    if settings.optimizer == "adamw":
        decay = settings.weight_decay or ADAMW_DECAY
        return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=decay)
    return torch.optim.SGD(
        parameters,
        lr=settings.learning_rate,
        momentum=MOMENTUM if settings.optimizer == "momentum" else 0.0,
        weight_decay=settings.weight_decay,
    )
