"""DP-SGD on the client: per-example clipping and noise inside training, on Poisson batches.

Source:      Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, arXiv:1607.00133,
             algorithm 1; clipping, noise and accountants by Opacus 1.6.
Guarantee:   (epsilon, delta) for one example of a client, as it is or replaced by one without a
             gradient (zero-out: Kairouz et al., ICML 2021, arXiv:2103.00039), against whoever sees
             all that the client ever sent: the server, too. What steps send differs by as much as
             between an example there and left out, so the accountants' figures are the same; but N
             stays, and with it the rate and ``num_examples``, which are public. No amplification by
             the choice of clients: the server makes it. Each client's accountant runs over its own
             rounds. The loss is not told. Noise comes from the run's seed, so that runs repeat:
             whoever knows the seed takes it off again.
Deviations:  an example's loss is the mean over its own tokens, where plain training takes the mean
             over the batch's; each local step of FedAvg draws its own batch from all that the
             client holds, as often as plain training steps.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from defenses.accounting import ACCOUNTANTS, Entry, add, noise_for
from defenses.base import Defense, Guarantee, Here, Memory, Private, Setting, Steps, norm
from fedsim.errors import BadInput, ClientFailure, DefenseFailed
from fedsim.messages import Parameters
from fedsim.models import ModelAdapter
from fedsim.training import Examples, Gradient, Training, TrainingSettings

if TYPE_CHECKING:  # opacus takes a second to import, and most runs need none of it
    from defenses.per_example import Clip, Noisy

TOLERANCE = 0.02  # of the noise on the wire
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
    def check(self, setting: Setting) -> None:
        if sum(isinstance(one, DPSGD) for one in setting.defenses) > 1:
            raise BadInput("defense: dp-sgd can be there once, got it twice")
        for one in setting.defenses[: setting.defenses.index(self)]:
            if type(one).protect is not Defense.protect:
                raise BadInput(
                    f"defense: dp-sgd acts inside training, so it must stand before what changes "
                    f"the update, got it after {one!r}"
                )
        most = max(setting.held)
        if self.delta >= 1.0 / most:
            raise BadInput(
                f"defense dp-sgd: delta must be below 1 / {most}, the examples of a client, got "
                f"{self.delta:g}: it would allow to publish one of them"
            )
        _check_modules(setting.adapter.module)

    @override
    def settle(self, setting: Setting) -> Defense:
        plans = {_plan(setting.training, held, setting.expected(held)) for held in setting.held}
        if self.target_epsilon is None:
            self._check_budget(plans)
            return self
        found = []
        for rate, steps in plans:
            total = steps * setting.rounds
            z = noise_for(self.target_epsilon, self.delta, rate, total, self.accountant)
            if z is None:
                raise BadInput(
                    f"defense dp-sgd: target_epsilon {self.target_epsilon:g} cannot be met in "
                    f"{total} steps at sampling rate {rate:.3g} and delta {self.delta:g}"
                )
            found.append(z)
        budget = min(self.target_epsilon, self.budget or math.inf)  # nobody spends more than that
        settled = replace(self, noise_multiplier=max(found), target_epsilon=None, budget=budget)
        settled._check_budget(plans)
        return settled

    def _check_budget(self, plans: Iterable[tuple[float, int]]) -> None:
        """Raise BadInput where no client can pay for its first round."""
        z = self.noise_multiplier or 0.0
        if self.budget is None:
            return
        least = min(self.epsilons([(z, *plan)])[self.accountant] for plan in plans)
        if least > self.budget:
            raise BadInput(
                f"defense dp-sgd: budget must be at least the epsilon of one round, {least:.4g}, "
                f"got {self.budget:g}"
            )

    @override
    def begin(self, here: Here) -> Defense:
        if self.noise_multiplier is None:
            raise DefenseFailed(f"{self!r} was not settled: it has no noise multiplier")
        values = {one.name: getattr(self, one.name) for one in fields(DPSGD)}
        work = _AtWork(**values, here=here)
        if self.budget is not None and self.epsilons(work.history())[self.accountant] > self.budget:
            raise ClientFailure(
                f"the privacy budget of epsilon {self.budget:g} is spent after "
                f"{here.memory.values.get('rounds', 0)} rounds; other clients go on with "
                "federation.on_failure = continue"
            )
        return work

    @override
    def spent(self, memories: Sequence[Memory]) -> Guarantee | None:
        found = [one for one in memories if one.values]
        if not found:
            return None
        worst = max(found, key=lambda one: self.epsilons(_history(one))[self.accountant])
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
        return 1.0 / self.noise_multiplier if self.noise_multiplier else math.inf

    @override
    def nats(self) -> float:
        return self.distance() ** 2 / 2.0

    @override
    def epsilon_at(self, memories: Sequence[Memory], distance: float) -> float:
        histories = {tuple((1.0 / distance, q, n) for _, q, n in _history(m)) for m in memories}
        return max(self.epsilons(one)[self.accountant] for one in histories if one)

    def epsilons(self, history: Sequence[Entry]) -> dict[str, float]:
        """Return epsilon after ``history``, by each accountant; infinite with hardly any noise."""
        return {name: one(tuple(history), self.delta) for name, one in ACCOUNTANTS.items()}


def _history(memory: Memory) -> list[Entry]:
    """Return the steps that ``memory`` tells of."""
    return [(z, rate, steps) for z, rate, steps in memory.values.get("history", [])]


def _check_modules(module: nn.Module) -> None:
    """Raise BadInput where a module mixes examples, or has no rule for per-example gradients."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise BadInput(f"defense dp-sgd: {name} is a batch norm, which mixes the examples")
    from defenses.per_example import RULES, owners

    for part in owners(module):
        if type(part) not in RULES:
            kinds = ", ".join(sorted(one.__name__ for one in RULES))
            raise BadInput(
                f"defense dp-sgd: no rule for the gradients of {type(part).__name__}; "
                f"known: {kinds}"
            )


def _plan(training: TrainingSettings, held: int, expected: int) -> tuple[float, int]:
    """Return a round's sampling rate q and number of steps."""
    if training.algorithm == "fedsgd":
        return expected / held, 1
    size = min(training.mini_batch_size, expected)
    return size / held, training.local_epochs * math.ceil(expected / size)


@dataclass
class _Record:
    """What one round's steps did, for the audit."""

    clean: dict[str, Tensor] = field(default_factory=dict)  # summed over the steps
    squares: float = 0.0  # of the noise of every step
    entries: int = 0
    norms: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _AtWork(DPSGD):
    """DP-SGD in one client and round."""

    here: Here
    record: _Record = field(default_factory=_Record)

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
        found: Any = replace(training, gradient=self.gradient())  # type: ignore[type-var]
        return cast(Training, found)

    def gradient(self) -> Gradient:
        """Return the gradient of a batch, clipped and noised."""
        from defenses.per_example import noisy_gradient

        here = self.here
        noise: dict[str, torch.Generator] = {}

        def leave(
            module: nn.Module, adapter: ModelAdapter, examples: Examples, draw: torch.Generator
        ) -> float:
            on = noise.setdefault("on", _on(here.generator, adapter.device))
            found = noisy_gradient(module, adapter, examples, self.mechanism(module), draw, on)
            self.note(found)
            for name, p in module.named_parameters():
                if p.requires_grad:
                    p.grad = found.sent[name]
            return found.loss

        return leave

    def mechanism(self, module: nn.Module) -> "Clip":
        """Return how a step of this round is clipped and noised."""
        from defenses.per_example import Clip, ghost_fits

        return Clip(
            norm=self.clip,
            noise_multiplier=self.noise_multiplier or 0.0,
            expected=self.plan[0] * self.here.held,
            ghost=ghost_fits(module),
        )

    def note(self, found: "Noisy") -> None:
        """Keep what the audit needs of a step."""
        self.record.norms.append(found.norms.cpu())
        for name, clean in found.clean.items():
            before = self.record.clean.get(name)
            self.record.clean[name] = clean if before is None else before + clean
            self.record.squares += float((found.sent[name] - clean).double().square().sum().item())
            self.record.entries += clean.numel()

    @override
    def audit(self, clean: Parameters, sent: Parameters) -> dict[str, float]:
        from defenses.per_example import clip_factors

        figures = super().audit(clean, sent)
        norms = torch.cat(self.record.norms)
        _, steps = self.plan
        size = self.plan[0] * self.here.held
        if norm(sent) == 0.0:
            raise DefenseFailed("dp-sgd sends nothing")
        if norm(self.record.clean) > len(norms) * self.clip / size * (1 + 1e-4):
            raise DefenseFailed(
                f"dp-sgd: {len(norms)} examples clipped to {self.clip:g} sum to more"
            )
        std, entries = self._noise(sent)
        wanted = (self.noise_multiplier or 0.0) * self.clip / size
        allowed = max(TOLERANCE, 5.0 / math.sqrt(2 * entries))  # five standard errors
        if abs(std - wanted) > allowed * wanted + 1e-7 * norm(sent):
            raise DefenseFailed(
                f"dp-sgd: the noise on the wire has a standard deviation of {std:.4g}, not the "
                f"{wanted:.4g} of z C / B"
            )
        some = norms if len(norms) else torch.zeros(1)
        return figures | {
            "steps": float(steps),
            "noise_std": std,
            "noise_std_wanted": wanted,
            "clip_factor": float(clip_factors(some, self.clip).mean().item()),
            "clipped": float((some > self.clip).float().mean().item()),
        }

    def _noise(self, sent: Parameters) -> tuple[float, int]:
        """Return a step's noise, off what is sent where it tells it, and of how many entries.

        The noise is a standard deviation; steps that are seen as one sum are measured once.

        A gradient, and a delta of plain SGD, are the steps' sum: what they differ by from the clean
        sum is the noise. Momentum and AdamW mix steps; then each step's own noise is measured.
        """
        training, (_, steps) = self.here.training, self.plan
        plain = training.optimizer == "sgd" and not training.weight_decay
        plain = plain and not training.proximal_mu and training.learning_rate >= 1e-4
        if training.algorithm == "fedavg" and not plain:
            return math.sqrt(self.record.squares / self.record.entries), self.record.entries
        scale = 1.0 if training.algorithm == "fedsgd" else -1.0 / training.learning_rate
        gaps = {name: scale * t - self.record.clean[name].to(t.device) for name, t in sent.items()}
        entries = sum(t.numel() for t in gaps.values())
        return norm(gaps) / math.sqrt(entries * steps), entries

    @override
    def report(self, metrics: dict[str, float]) -> dict[str, float]:  # type: ignore[override]
        return {}  # the loss is of the raw examples

    @override
    def keep(self) -> Memory:
        rounds = self.here.memory.values.get("rounds", 0) + 1
        return Memory(values={"history": self.history(), "rounds": rounds})


def _on(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return ``generator``, or one on ``device`` that it seeds."""
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator).item())
    return torch.Generator(device).manual_seed(seed)
