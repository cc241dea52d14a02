"""Weight decay of a delta: what it added beside the gradients, as said and as it shows.

A local step with decay w moves the weights by w times themselves, beside the gradient. The config
says w; the embeddings that no text touched show what came of it, whatever the optimizer.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from fedsim.messages import Observation
from fedsim.training import TrainingSettings

ROWS = 8  # embedding rows that must shrink alike before decay is believed
SAMPLE = 2048  # embedding rows looked at, evenly spread
ALIKE = 0.05  # how far such a row may be from its own multiple; rounding is 1e-3 of weak decay
ULP = 2.0**-23  # of a float32 weight: what a step rounds away is half of it at most


def said_decay(observation: Observation) -> float:
    """Return the decay of each local step by the training config; 0 of a gradient."""
    if observation.update.kind == "gradient":
        return 0.0
    return TrainingSettings.from_config(observation.broadcast.config).weight_decay


def shown_decay(observation: Observation) -> float:
    """Return the share of the weights that decay added to a delta: negative, or 0."""
    if observation.update.kind != "delta":
        return 0.0
    patterns = observation.model.groups["embeddings"]
    sent = observation.broadcast.parameters
    return decay_of(
        (update, sent[name])
        for name, update in observation.update.tensors.items()
        if update.ndim == 2 and any(fnmatchcase(name, pattern) for pattern in patterns)
    )


def decay_of(embeddings: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of the weights that decay added to the updates of ``embeddings``.

    A row of the embeddings that no text of the client's touched only shrinks, so it tells.

    Args:
        embeddings: (N, D) each: the update, and the weights that were sent.
    """
    shares = []
    for update, sent in embeddings:
        rows = torch.linspace(0, len(update) - 1, min(SAMPLE, len(update))).long()
        change, weight = update[rows].double(), sent[rows].double()
        share = (change * weight).sum(1) / weight.square().sum(1).clamp_min(1e-30)
        rest = (change - share[:, None] * weight).norm(dim=1)
        shares.append(share[(rest < ALIKE * change.norm(dim=1)) & (share < 0)])
    alike = torch.cat(shares) if shares else torch.empty(0)
    return alike.median().item() if len(alike) >= ROWS else 0.0


def undecayed(gradient: Tensor, observation: Observation, name: str) -> Tensor:
    """Return a delta's ``gradient`` of the parameter ``name`` less the decay that is said.

    The steps' weights were about those sent. Zeros stay: a defense may have left them out.
    """
    decay = said_decay(observation)
    if not decay:
        return gradient
    weight = observation.broadcast.parameters[name].to(gradient)
    return gradient - decay * weight * (gradient != 0)


def without_decayed_rows(gradient: Tensor, observation: Observation, name: str) -> Tensor:
    """Return ``gradient`` (N, D), undecayed, with the rows at zero that decay alone moved.

    What is left of them is the rounding of the weights, over the learning rate.
    """
    if not said_decay(observation):
        return gradient
    weight = observation.broadcast.parameters[name].to(gradient)
    rounding = ULP * weight.norm(dim=1, keepdim=True)
    rate = TrainingSettings.from_config(observation.broadcast.config).learning_rate
    moved = gradient.norm(dim=1, keepdim=True) > rounding / rate
    return torch.where(moved, gradient, 0.0)
