"""DP-SGD on the client: per-example clipping and noise inside training, on Poisson batches.

Source:      Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, arXiv:1607.00133,
             algorithm 1; accountants by Opacus 1.6, clipping by ``defenses.dp.ghost``.
Guarantee:   (epsilon, delta) for one example of a client, as it is or replaced by one without a
             gradient (zero-out: Kairouz et al., ICML 2021, arXiv:2103.00039), against whoever sees
             all that the client ever sent: the server, too. What steps send differs by as much as
             between an example there and left out, so the accountants' figures are the same; but N
             stays, and with it the rate and ``num_examples``, which are public. No amplification by
             the choice of clients: the server makes it. Each client's accountant runs over its own
             rounds. The loss is not told. Lots and noise come from a secret of the run's, by
             default one that nobody knows.
Deviations:  an example's loss is the mean over its own tokens, where plain training takes the mean
             over the batch's; each local step of FedAvg draws its own batch from all that the
             client holds, as often as plain training steps.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import nn
from typing_extensions import override

from defenses.base import Defense, Guarantee, Here, Memory, Private, Setting, Steps
from defenses.dp.accounting import ACCOUNTANTS, LEAST, Entry, add, noise_for
from defenses.dp.record import Claim, Record
from fedsim.effects import Clips, Effect, Noises
from fedsim.errors import BadInput, ClientFailure, DefenseFailed
from fedsim.models import ModelAdapter
from fedsim.training import Examples, Gradient, Training, TrainingSettings
from fedsim.types import Parameters

if TYPE_CHECKING:  # opacus takes a second to import, and most runs need none of it
    from defenses.dp.per_example import Clip

Accountant = Literal["prv", "rdp"]


@dataclass(frozen=True, kw_only=True)
class DPSGD(Private):
    """Clip each example's gradient to ``clip``, add noise of ``noise_multiplier`` x ``clip``."""

    unit: ClassVar = "example"

    noise_multiplier: float | None = None  # z >= 0; None: what ``target_epsilon`` takes, or 1.0
    target_epsilon: float | None = None  # over all rounds, for a client that is in each of them
    budget: float | None = None  # epsilon; a client that would pass it takes no part any more
    clip: float = 1.0  # C, of an example's gradient over all parameters
    delta: float = 1e-5  # below 1 / the examples of each client
    accountant: Accountant = "prv"  # which epsilon is stated; the other one stands beside it
    sampling: str = "poisson"

    def __post_init__(self) -> None:
        if self.noise_multiplier is not None and self.target_epsilon is not None:
            raise ValueError("wanted noise_multiplier or target_epsilon, got both")
        if self.noise_multiplier is None and self.target_epsilon is None:
            object.__setattr__(self, "noise_multiplier", 1.0)
        if self.noise_multiplier is not None and not 0.0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier must be >= 0, got {self.noise_multiplier}")
        for name in ("target_epsilon", "budget", "clip"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be > 0, got {value}")
        if not 0.0 < self.delta < 1.0:
            raise ValueError(f"delta must be in (0, 1), got {self.delta}")
        if self.sampling != "poisson":
            raise ValueError(
                f"sampling must be poisson, got {self.sampling!r}: of batches drawn otherwise, "
                "such as fixed ones, the accountant's amplification is not true"
            )

    @override
    def effects(self) -> tuple[Effect, ...]:
        return Clips(norm=self.clip, each=True), Noises(multiplier=self.noise_multiplier)

    @override
    def check(self, setting: Setting) -> None:
        if sum(isinstance(defense, DPSGD) for defense in setting.defenses) > 1:
            raise BadInput("defense: dp-sgd can be there once, got it twice")
        for defense in setting.defenses[: setting.defenses.index(self)]:
            if type(defense).protect is not Defense.protect:
                raise BadInput(
                    f"defense: dp-sgd acts inside training, so it must stand before what changes "
                    f"the update, got it after {defense!r}"
                )
        most = max(setting.held)
        if self.delta >= 1.0 / most:
            raise BadInput(
                f"defense dp-sgd: delta must be below 1 / {most}, the examples of a client, got "
                f"{self.delta:g}: it would allow to publish one of them"
            )
        from defenses.dp.ghost import untellable

        if why := untellable(setting.adapter.module):
            raise BadInput(f"defense dp-sgd: {why}")

    @override
    def settle(self, setting: Setting) -> Defense:
        plans = {_plan(setting.training, held, setting.expected(held)) for held in setting.held}
        if self.target_epsilon is None:
            self._check_budget(plans)
            return self
        needed = []
        for rate, steps in _extreme(plans, max):
            total = steps * setting.rounds
            z = noise_for(self.target_epsilon, self.delta, rate, total, self.accountant)
            if z is None:
                raise BadInput(
                    f"defense dp-sgd: target_epsilon {self.target_epsilon:g} cannot be met in "
                    f"{total} steps at sampling rate {rate:.3g} and delta {self.delta:g}"
                )
            needed.append(z)
        budget = min(self.target_epsilon, self.budget or math.inf)  # nobody spends more than that
        settled = replace(self, noise_multiplier=max(needed), target_epsilon=None, budget=budget)
        settled._check_budget(plans)
        return settled

    def _check_budget(self, plans: Iterable[tuple[float, int]]) -> None:
        """Raise BadInput where no client can pay for its first round."""
        z = self.noise_multiplier or 0.0
        if self.budget is None:
            return
        least = min(self.epsilon([(z, *plan)]) for plan in _extreme(plans, min))
        if least > self.budget:
            raise BadInput(
                f"defense dp-sgd: budget must be at least the epsilon of one round, {least:.4g}, "
                f"got {self.budget:g}"
            )

    @override
    def begin(self, here: Here) -> Defense:
        if self.noise_multiplier is None:
            raise DefenseFailed(f"{self!r} was not settled: it has no noise multiplier")
        values = {setting.name: getattr(self, setting.name) for setting in fields(DPSGD)}
        work = _DPSGDRound(**values, here=here)
        if self.budget is not None and self.epsilon(work.history()) > self.budget:
            raise ClientFailure(
                f"the privacy budget of epsilon {self.budget:g} is spent after "
                f"{here.memory.values.get('rounds', 0)} rounds; other clients go on with "
                "federation.on_failure = continue"
            )
        return work

    @override
    def spent(self, memories: Sequence[Memory]) -> Guarantee | None:
        trained = [memory for memory in memories if memory.values]
        if not trained:
            return None
        worst = max(trained, key=lambda memory: self.epsilon(_history(memory)))
        history, rounds = _history(worst), worst.values["rounds"]
        rate, steps = history[-1][1], sum(entry[2] for entry in history)
        epsilons = self.epsilons(history)
        if math.isinf(epsilons[self.accountant]):
            return None
        return Guarantee(
            epsilon=epsilons[self.accountant],
            delta=self.delta,
            unit="example",
            adjacency="zero-out: one example replaced by one without a gradient, N stays",
            accountant=self.accountant,
            sampling=f"poisson, rate {rate:.4g}" if rate < 1.0 else "every example in every step",
            composition=f"{steps} steps in {rounds} rounds of the worst client",
            epsilons=epsilons,
        )

    @override
    def distance(self) -> float:
        z = self.noise_multiplier or 0.0
        return 1.0 / z if z >= LEAST else math.inf

    @override
    def nats(self) -> float:
        return self.distance() ** 2 / 2.0

    @override
    def epsilon_at(self, memories: Sequence[Memory], distance: float) -> float:
        histories = {tuple((1.0 / distance, q, n) for _, q, n in _history(m)) for m in memories}
        return max(self.epsilon(history) for history in histories if history)

    def epsilon(self, history: Sequence[Entry]) -> float:
        """Return epsilon after ``history``, by the accountant that counts."""
        return ACCOUNTANTS[self.accountant](tuple(history), self.delta)

    def epsilons(self, history: Sequence[Entry]) -> dict[str, float]:
        """Return epsilon after ``history``, by each accountant; infinite with hardly any noise."""
        return {name: spend(tuple(history), self.delta) for name, spend in ACCOUNTANTS.items()}


def _history(memory: Memory) -> list[Entry]:
    """Return the steps that ``memory`` tells of."""
    return [(z, rate, steps) for z, rate, steps in memory.values.get("history", [])]


def _plan(training: TrainingSettings, held: int, expected: int) -> tuple[float, int]:
    """Return a round's sampling rate q and number of steps."""
    if training.algorithm == "fedsgd":
        return expected / held, 1
    size = min(training.mini_batch_size, expected)
    return size / held, training.steps(expected)


def _extreme(
    plans: Iterable[tuple[float, int]], of: Callable[[float, float], float]
) -> list[tuple[float, int]]:
    """Return, for each number of steps, the plan of the largest or least rate: epsilon grows in it.

    Accounting takes seconds, and a split over many clients has as many rates. A rate of 1 is
    accounted otherwise, and stands for itself.
    """
    rates: dict[tuple[int, bool], float] = {}
    for rate, steps in plans:
        key = steps, rate < 1.0
        rates[key] = of(rate, rates.get(key, rate))
    return [(rate, steps) for (steps, _), rate in rates.items()]


@dataclass(frozen=True, kw_only=True)
class _DPSGDRound(DPSGD):
    """DP-SGD in one client and round."""

    here: Here
    record: Record = field(default_factory=Record)

    @property
    def plan(self) -> tuple[float, int]:
        return _plan(self.here.training, self.here.held, self.here.expected)

    def history(self) -> list[Entry]:
        """Return all of this client's steps, this round's among them."""
        rate, steps = self.plan
        return add(_history(self.here.memory), self.noise_multiplier or 0.0, rate, steps)

    @override
    def draw(self, generator: torch.Generator) -> Steps:
        rate, steps = self.plan
        drawn = torch.rand(steps, self.here.held, generator=generator) < rate
        return tuple(tuple(row.nonzero().flatten().tolist()) for row in drawn)

    @override
    def wrap(self, training: Training) -> Training:
        if not hasattr(training, "gradient"):
            raise DefenseFailed(
                f"dp-sgd takes the gradient's place inside training, but {training!r} has none; "
                "name it before defenses that wrap the training"
            )
        wrapped: Any = replace(training, gradient=self.gradient())  # type: ignore[type-var]
        return cast(Training, wrapped)

    def gradient(self) -> Gradient:
        """Return the gradient of a batch, clipped and noised."""
        from defenses.dp.per_example import noisy_gradient

        here, clip = self.here, self.mechanism()

        def leave(
            module: nn.Module, adapter: ModelAdapter, examples: Examples, draw: torch.Generator
        ) -> float:
            noisy = noisy_gradient(module, adapter, examples, clip, draw, here.generator)
            self.record.note(noisy, here.training)
            for name, p in module.named_parameters():
                if p.requires_grad:
                    p.grad = noisy.sent[name]
            return noisy.loss

        return leave

    def mechanism(self) -> "Clip":
        """Return how a step of this round is clipped and noised."""
        from defenses.dp.per_example import Clip

        z, size = self.noise_multiplier or 0.0, self.plan[0] * self.here.held
        return Clip(norm=self.clip, noise_multiplier=z, expected=size)

    @override
    def audit(self, clean: Parameters, sent: Parameters) -> dict[str, float]:
        figures, (rate, steps) = super().audit(clean, sent), self.plan
        size, z = rate * self.here.held, self.noise_multiplier or 0.0
        claim = Claim(clip=self.clip, size=size, std=z * self.clip / size, steps=steps)
        training = self.here.training
        return figures | self.record.figures(sent, figures["norm_after"], claim, training)

    @override
    def report(self, metrics: dict[str, float]) -> dict[str, float]:  # type: ignore[override]
        return {}  # the loss is of the raw examples

    @override
    def keep(self) -> Memory:
        rounds = self.here.memory.values.get("rounds", 0) + 1
        return Memory(values={"history": self.history(), "rounds": rounds})
