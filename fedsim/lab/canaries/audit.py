"""The canary audit: what a defense claims against what its canaries prove."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from defenses import Defense
from defenses.base import Private
from fedsim.errors import BadInput
from fedsim.files import write_json
from fedsim.lab.canaries.bounds import Mu, OneRun, mu_hat, one_run
from fedsim.lab.canaries.rounds import Traces, canary_clients, canary_examples
from fedsim.lab.run.prepare import Experiment
from fedsim.lab.run.secrecy import origin
from fedsim.lab.store import layout
from fedsim.lab.store.run import RunDirectory

FEWEST = 20  # canaries
FAR = 100.0  # standard deviations; nothing is private beyond
ROUNDS = {"example": canary_examples, "client": canary_clients}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was claimed, and what was found."""

    claimed: dict[str, Any]  # the guarantee
    canaries: int
    level: float  # the chance that either bound is above the true epsilon
    bound: OneRun
    mu: Mu  # of a round, measured
    mu_claimed: float
    epsilon_estimate: float  # over all rounds, of a mechanism with the measured mu
    epsilon_low: float  # of mu's lower end

    @property
    def kept(self) -> bool:
        """Whether the evidence leaves the claim standing."""
        return max(self.bound.epsilon, self.epsilon_low) <= float(self.claimed["epsilon"])

    def as_dict(self) -> dict[str, Any]:
        """Return the audit as JSON values; what is infinite as text."""
        return {name: _json(value) for name, value in (asdict(self) | {"kept": self.kept}).items()}


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json(inner) for name, inner in value.items()}
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def audited(defenses: Sequence[Defense]) -> Private:
    """Return the one defense that claims a guarantee.

    Raises:
        BadInput: there is none, or more than one, or it adds no noise.
    """
    claims = [defense for defense in defenses if isinstance(defense, Private)]
    if len(claims) != 1:
        names = ", ".join(type(defense).__name__ for defense in defenses)
        raise BadInput(f"defense: an audit wants one that claims a guarantee, got {names}")
    if math.isinf(claims[0].distance()):
        raise BadInput(f"defense: {claims[0]!r} adds no noise, so it claims nothing to audit")
    return claims[0]


def run_audit(experiment: Experiment, run: RunDirectory, canaries: int, level: float) -> Audit:
    """Run the experiment's rounds with canaries, and return what they prove.

    Args:
        experiment: whose defense is audited, alone: what stands beside it cannot weaken it.
        run: where the vault, the clients' memory and ``audit.json`` go.
        canaries: of an example's guarantee they are shared out among the clients; of a client's
            each is a client.
        level: the chance that either bound is above the true epsilon: each spends half of it.

    Raises:
        BadInput: no defense claims a guarantee, or the canaries are too few.
    """
    claim = audited(experiment.defenses)
    if canaries < FEWEST:
        raise BadInput(f"--canaries: must be at least {FEWEST}, got {canaries}")
    if not 0.0 < level < 0.5:
        raise BadInput(f"--level: must be in (0, 0.5), got {level:g}")
    traces = ROUNDS[claim.unit](experiment, run, claim, canaries)
    spent, scale = claim.spent(traces.memories), math.sqrt(traces.steps)
    if spent is None or len(traces.present) < 2 or len(traces.absent) < 2:
        raise BadInput("too few canaries were trained on; take more, or a larger batch_size")
    mu = mu_hat(traces.present, traces.absent, level / 2)
    audit = Audit(
        claimed={**asdict(spent), "secret": origin(run.vault)},
        canaries=len(traces.inside),
        level=level,
        bound=one_run(traces.inside, traces.totals, spent.delta, level / 2),
        mu=mu,
        mu_claimed=claim.distance() * scale,
        epsilon_estimate=_epsilon(claim, traces, mu.mean / scale),
        epsilon_low=_epsilon(claim, traces, mu.low / scale),
    )
    write_json(run.root / layout.CANARIES, audit.as_dict())
    return audit


def _epsilon(claim: Private, traces: Traces, distance: float) -> float:
    """Return what the steps spent, had each the ``distance`` that was measured."""
    if distance <= 0.0:
        return 0.0
    return math.inf if distance > FAR else claim.epsilon_at(traces.memories, distance)
