"""The base of every defense: what a client does so that its update tells less."""

from dataclasses import dataclass

import torch

from fedsim.messages import Parameters
from fedsim.training import Training


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """A differential-privacy guarantee against this server, over all rounds so far."""

    epsilon: float
    delta: float
    unit: str  # "example" or "client": what may differ between neighbours
    accountant: str
    sampling: str


@dataclass(frozen=True, kw_only=True)
class Defense:
    """Changes how a client trains (``wrap``) or what it sends (``protect``); by default neither."""

    def wrap(self, training: Training) -> Training:
        """Return the training to run in place of ``training``."""
        return training

    def protect(self, tensors: Parameters, generator: torch.Generator) -> Parameters:
        """Return what to send in place of ``tensors``: same names, same shapes."""
        return tensors

    def guarantee(self) -> Guarantee | None:
        """Return the guarantee this gives, or None: then any protection is incidental."""
        return None
