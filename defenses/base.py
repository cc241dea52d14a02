"""The base of every defense: what a client does so that its update tells less."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from defenses.encoding import Encoding
from fedsim.effects import Effect
from fedsim.errors import DefenseFailed
from fedsim.models import ModelAdapter, ModelSpec
from fedsim.training import Training, TrainingSettings
from fedsim.types import Parameters

Steps = tuple[tuple[int, ...], ...]
"""Which of a client's examples each local step trains on, as places in all that it holds."""


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """A differential-privacy guarantee against this server, over all rounds so far."""

    epsilon: float
    delta: float
    unit: str  # "example" or "client": what may differ between neighbours
    adjacency: str = ""  # and how it may differ
    accountant: str
    sampling: str
    composition: str = ""  # what it is composed over
    epsilons: Mapping[str, float] = field(default_factory=dict)  # by each accountant


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a defense can check itself against before anything starts; all of it is public."""

    adapter: ModelAdapter
    training: TrainingSettings
    batch_size: int  # examples a round; 0: all that a client holds
    held: Collection[int]  # examples of each client that it can train on, in their order
    clients_per_round: int
    rounds: int
    defenses: tuple["Defense", ...]  # all of them, in order

    def expected(self, held: int) -> int:
        """Return the examples a round of a client that holds ``held``."""
        return min(self.batch_size or held, held)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a defense of one client keeps from round to round, on the client's own disk."""

    tensors: Parameters = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)  # whatever JSON can hold


@dataclass(frozen=True, kw_only=True)
class Here:
    """Where a defense is at work: one client in one round."""

    round: int
    held: int  # examples the client holds
    expected: int  # examples a round, as the server is told: never how many it came to
    training: TrainingSettings
    memory: Memory  # what this defense kept in this client's last round
    generator: torch.Generator  # for what it draws inside training; ``protect`` gets another


@dataclass(frozen=True, kw_only=True)
class Defense:
    """Changes how a client trains (``wrap``) or what it sends (``protect``); by default neither.

    Before the run: ``configure``, ``check``, ``settle``. In each client and round: ``begin``, which
    returns the defense at work, whose ``draw``, ``wrap``, ``protect``, ``audit``, ``encoded``,
    ``report`` and ``keep`` are called in that order. After the run: ``spent``.
    """

    sums: ClassVar[bool] = False  # the server gets the sum of the updates, and none of them

    def configure(
        self, model: ModelSpec, training: TrainingSettings
    ) -> tuple[ModelSpec, TrainingSettings]:
        """Return the public settings to run with in place of these: a training choice."""
        return model, training

    def effects(self) -> tuple[Effect, ...]:
        """Return what this does to an update, in order: all that an attack may be told of it."""
        return ()

    def check(self, setting: Setting) -> None:
        """Raise BadInput where this defense cannot do what it says in ``setting``."""

    def central(self) -> Mapping[str, float] | None:
        """Return what the server is to clip and noise with; it protects nobody from the server."""
        return None

    def settle(self, setting: Setting) -> "Defense":
        """Return this defense with what it takes from ``setting``; called after ``check``."""
        return self

    def begin(self, here: Here) -> "Defense":
        """Return this defense at work in one client and round; one without memory is itself."""
        return self

    def draw(self, generator: torch.Generator) -> Steps | None:
        """Return what each local step trains on; None: a batch without replacement."""
        return None

    def wrap(self, training: Training) -> Training:
        """Return the training to run in place of ``training``."""
        return training

    def protect(self, tensors: Parameters, generator: torch.Generator) -> Parameters:
        """Return what to send in place of ``tensors``: same names, same shapes."""
        return tensors

    def audit(self, clean: Parameters, sent: Parameters) -> dict[str, float]:
        """Measure what ``protect`` made of ``clean``, for the client's side alone.

        A defense checks its own claim here, beside this.

        Raises:
            DefenseFailed: it did not do what it says.
        """
        changed = {name: t for name, t in clean.items() if sent[name] is not t}
        before = norm(clean)
        after = norm(sent) if changed else before
        if before > 0.0 and after == 0.0:
            raise DefenseFailed(f"{self!r} sends nothing: an update of norm {before:g} became zero")
        change = norm({name: sent[name].float() - t.float() for name, t in changed.items()})
        return {
            "norm_before": before,
            "norm_after": after,
            "change": change / before if before else 0.0,
        }

    def report(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Return the metrics that may travel beside the update, by the same keys every round."""
        return metrics

    def encoded(self, sent: Parameters, before: Encoding) -> Encoding:
        """Return what ``sent`` takes on the wire; ``before``: without this defense."""
        return before

    def keep(self) -> Memory:
        """Return what the next round's ``begin`` is to find."""
        return Memory()

    def guarantee(self) -> Guarantee | None:
        """Return the guarantee this gives, or None: then any protection is incidental."""
        return None

    def spent(self, memories: Sequence[Memory]) -> Guarantee | None:
        """Return the guarantee over a run, the worst client's, given what each client kept."""
        return self.guarantee()


@dataclass(frozen=True, kw_only=True)
class Private(Defense):
    """A defense that claims a guarantee, and can be audited by canaries.

    A canary saturates the clip: with it and without it, what a step sends differs by ``distance``
    standard deviations of the noise.
    """

    unit: ClassVar[str]  # "example" or "client": what a canary is

    @abstractmethod
    def distance(self) -> float:
        """Return a step's distance as claimed; infinite where nothing is: with hardly any noise."""

    @abstractmethod
    def nats(self) -> float:
        """Return what a step tells at most about one unit, in nats."""

    @abstractmethod
    def epsilon_at(self, memories: Sequence[Memory], distance: float) -> float:
        """Return what the clients' steps would have spent, had ``distance`` been true of them."""


def norm(tensors: Parameters) -> float:
    """Return the L2 norm of all tensors together, in float64."""
    norms = [torch.linalg.vector_norm(t.detach(), dtype=torch.float64) for t in tensors.values()]
    return float(torch.stack(norms).norm().item()) if norms else 0.0
