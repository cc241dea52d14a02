"""A score: what one attack read of one update, pair by pair, beside its controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from fedsim.lab.scoring.metrics import Pair, emitted_precision
from fedsim.lab.store.attempts import AttackRecord
from fedsim.lab.store.figures import Verdict
from fedsim.lab.store.samples import Sample
from fedsim.lab.store.summary import Entry

Metrics = Mapping[str, float]


@dataclass
class Scored:
    """One attack on one client's update, scored."""

    attempt: AttackRecord
    pairs: list[Pair] = field(default_factory=list)
    samples: Sequence[Metrics] = field(default_factory=list)  # by pair; none: no truth is known
    surplus: int = 0  # guesses without a truth
    chance: list[float] = field(default_factory=list)  # VERDICT_METRIC of each no-gradient draw
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    other: list[float] = field(default_factory=list)  # VERDICT_METRIC of the other-update control
    positive: list[float] = field(default_factory=list)  # and of the positive control
    verdict: Verdict = "inconclusive"
    reason: str = ""

    def values(self, metric: str) -> list[float]:
        """Return ``metric`` of each sample."""
        return [metrics[metric] for metrics in self.samples]

    @property
    def place(self) -> str:
        """Which update it is, in words."""
        return f"round {self.attempt.round}, client {self.attempt.client}"


def means(samples: Sequence[Metrics]) -> dict[str, float]:
    """Return each metric's mean over ``samples``; {} for none."""
    names = samples[0] if samples else ()
    return {name: fmean(metrics[name] for metrics in samples) for name in names}


def entry_of(scored: Scored) -> Entry:
    """Return the score as an element of summary.json's ``attacks``."""
    attempt, metrics = scored.attempt, means(scored.samples)
    if scored.samples:
        metrics["precision"] = emitted_precision(scored.pairs, scored.surplus)
    summed: dict[str, Any] = {"clients": attempt.clients} if attempt.clients else {}
    return Entry(
        attack=attempt.attack,
        settings=attempt.settings,
        knowledge=attempt.knowledge,
        round=attempt.round,
        client=attempt.client,
        samples=len(scored.samples),
        seconds=attempt.seconds,
        verdict=scored.verdict,
        reason=scored.reason,
        metrics=metrics,
        controls=scored.controls,
        diagnostics=attempt.diagnostics,
        error=attempt.error,
        **summed,
    )


def samples_of(scores: Sequence[Scored]) -> list[Sample]:
    """Return the samples of ``scores``, in their order; an update without a truth has none."""
    return [
        Sample(
            attack=scored.attempt.attack,
            round=scored.attempt.round,
            client=scored.attempt.client,
            clients=scored.attempt.clients or [scored.attempt.client],
            sample=place,
            truth=pair.truth_text,
            guess=pair.guess_text,
            truth_tokens=list(pair.truth),
            guess_tokens=list(pair.guess),
            metrics=dict(metrics),
            controls=_flat(scored.controls),
            verdict=scored.verdict,
            reason=scored.reason,
            knowledge=scored.attempt.knowledge,
            settings=scored.attempt.settings,
            seconds=scored.attempt.seconds,
            error=scored.attempt.error,
        )
        for scored in scores
        for place, (pair, metrics) in enumerate(zip(scored.pairs, scored.samples, strict=True))
    ]


def _flat(controls: Mapping[str, Metrics]) -> dict[str, float]:
    return {
        f"{control}_{metric}": value
        for control, metrics in controls.items()
        for metric, value in metrics.items()
    }
