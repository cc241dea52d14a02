"""A score: what one attack read of one update, pair by pair, beside its controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from fedsim.lab.scoring.membership import Answers
from fedsim.lab.scoring.metrics import Pair
from fedsim.lab.store.attempts import AttackRecord
from fedsim.lab.store.figures import COUNTED, PRECISION, VERDICT_METRIC, Verdict
from fedsim.lab.store.samples import Sample
from fedsim.lab.store.summary import Entry

Metrics = Mapping[str, float]


@dataclass
class Scored:
    """One attack on one client's update, scored."""

    attempt: AttackRecord
    pairs: list[Pair] = field(default_factory=list)
    samples: Sequence[Metrics] = field(default_factory=list)  # by pair; none: no truth is known
    hits: dict[str, list[float]] = field(default_factory=dict)  # of each guess, by ``PRECISION``
    chance: list[float] = field(default_factory=list)  # VERDICT_METRIC of each no-gradient draw
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    other: list[float] = field(default_factory=list)  # VERDICT_METRIC of the other-update control
    positive: list[float] = field(default_factory=list)  # and of the positive control
    positive_exact: bool = False  # one of its samples was read exactly, and is no guess
    positive_error: str = ""  # why the attack could not run on it
    negative_exact: bool = False  # a negative control has such a sample, too
    counted: dict[str, float] = field(default_factory=dict)  # of the batch, in place of samples
    answers: Answers | None = None  # about candidates, where it was asked about some
    own_answers: Answers | None = None  # and of its positive control
    verdict: Verdict = "inconclusive"
    reason: str = ""

    def values(self, metric: str) -> list[float]:
        """Return ``metric`` of each sample that has it, or of each guess (precision)."""
        if metric in PRECISION:
            return self.hits.get(metric, [])
        samples = [self.counted] if self.counted else self.samples
        return [metrics[metric] for metrics in samples if metric in metrics]

    @property
    def verdict_metric(self) -> str:
        """What its verdict compares."""
        return COUNTED if self.counted else VERDICT_METRIC

    @property
    def guesses(self) -> int:
        """How many guesses were made; those of special tokens alone say nothing and are none."""
        return len(self.hits["precision"] if self.hits else self.attempt.sequences)

    def precision(self) -> dict[str, float]:
        """Return the share of guesses that are right; {} where none was made."""
        return {name: fmean(made) for name, made in self.hits.items() if made}

    @property
    def place(self) -> str:
        """Which update it is, in words."""
        return f"round {self.attempt.round}, client {self.attempt.client}"


def means(samples: Sequence[Metrics]) -> dict[str, float]:
    """Return each metric's mean over the ``samples`` that have it; {} for none."""
    values: dict[str, list[float]] = {}
    for metrics in samples:
        for name, value in metrics.items():
            values.setdefault(name, []).append(value)
    return {name: fmean(some) for name, some in values.items()}


def entry_of(scored: Scored) -> Entry:
    """Return the score as an element of summary.json's ``attacks``."""
    attempt, metrics = scored.attempt, means(scored.samples) | scored.precision()
    metrics |= scored.counted
    metrics |= scored.answers.metrics() if scored.answers else {}
    told: dict[str, Any] = {"clients": attempt.clients} if attempt.clients else {}
    if wordless := len(scored.samples) - len(scored.values("rouge1")):
        told["wordless"] = wordless
    if attempt.reads != "texts":
        told["reads"] = attempt.reads
    if scored.answers:
        told["candidates"] = len(attempt.asked)
    return Entry(
        attack=attempt.attack,
        settings=attempt.settings,
        knowledge=attempt.knowledge,
        round=attempt.round,
        client=attempt.client,
        samples=len(scored.samples),
        guesses=scored.guesses,
        seconds=attempt.seconds,
        verdict=scored.verdict,
        reason=scored.reason,
        metrics=metrics,
        controls=scored.controls,
        diagnostics=attempt.diagnostics,
        error=attempt.error,
        **told,
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
            guesses=scored.guesses,
            **{"precision": None, **scored.precision()},
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
