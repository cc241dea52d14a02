"""One verdict over several updates, by the samples of all and of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from fedsim.lab.scoring import membership
from fedsim.lab.scoring.intervals import cluster_interval
from fedsim.lab.scoring.scored import Metrics, Scored
from fedsim.lab.scoring.silence import without_truth
from fedsim.lab.scoring.verdict import Evidence, decide
from fedsim.lab.store.figures import Interval, Verdict
from fedsim.rng import derive
from fedsim.types import Tokens

TELLING = 3  # tokens from which on a sample that was read exactly was not guessed
GAVE_UP = {
    "cut": "it gave up at its own limits before the end",
    "unread": "inputs stand out of the update that it could not read",
}
"""Diagnostics of an attack that found no answer, and what they say: that is no absence."""
EMPTY = "The client's batch was empty: its update is noise alone."


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Says the verdicts of a run.

    Attributes:
        controls: False after ``--quick``: then there are none, so no verdict.
        but_last: whether an update carries no sequence's last token.
        seed: of the bootstrap.
        unsure: why an absence says nothing, whatever the controls say; "": it does.
        looks: what hides texts in the updates, by the looks of them; "": nothing.
    """

    controls: bool
    but_last: bool
    seed: int
    unsure: str = ""
    looks: str = ""

    def verdict(self, group: Sequence[Scored]) -> tuple[Verdict, str]:
        """Return the verdict over ``group``: one update, or all that one attack was run on."""
        errors = [scored.attempt.error for scored in group if scored.attempt.error]
        if asked := [scored for scored in group if scored.answers]:
            return self._recognised(asked, errors)
        known = [scored for scored in group if scored.samples or scored.counted]
        if not known:
            return "inconclusive", without_truth([scored.attempt for scored in group], self.looks)
        if not self.controls:
            return "inconclusive", "The controls were skipped."
        verdict, reason = decide(self._evidence(known))
        if verdict == "inconclusive" and self.looks:
            return verdict, f"{reason} By its looks, {self.looks}."
        if errors and verdict == "no-leak":
            return "inconclusive", f"The attack could not run: {errors[0]}."
        if verdict == "no-leak" and (sure := sum(map(_sure, known))):
            return "inconclusive", (
                f"{reason} But {sure} texts were read as sure, and are not what the truth says: it "
                "may be that of another run, or lack what stands around the texts."
            )
        if verdict == "no-leak" and self.unsure:
            return "inconclusive", f"{reason} But {self.unsure}."
        for name, why in GAVE_UP.items():
            if verdict == "no-leak" and any(one.attempt.diagnostics.get(name) for one in known):
                return "inconclusive", f"{reason} But {why}."
        return verdict, reason

    def _recognised(self, asked: Sequence[Scored], errors: Sequence[str]) -> tuple[Verdict, str]:
        """Return the verdict of an attack that was asked about candidates."""
        if not self.controls:
            return "inconclusive", "The controls were skipped."
        seed = derive(self.seed, "bootstrap")
        error = next((scored.positive_error for scored in asked if scored.positive_error), "")
        told = membership.compared(
            [scored.answers for scored in asked if scored.answers],
            [scored.own_answers for scored in asked if scored.own_answers],
            seed,
            error=error,
            unlike=any(scored.attempt.diagnostics.get("unlike") for scored in asked),
        )
        verdict, reason = membership.decide(told)
        if verdict == "no-leak" and errors:
            return "inconclusive", f"The attack could not run: {errors[0]}."
        if verdict == "no-leak" and self.unsure:
            return "inconclusive", f"{reason} But {self.unsure}."
        return verdict, reason

    def together(self, group: Sequence[Scored]) -> tuple[Verdict, str]:
        """Return one verdict for all updates: a mean must not hide the client that was read."""
        verdict, reason = self.verdict(group)
        if verdict == "leak":
            return verdict, reason
        if verdict == "no-leak" and (
            alone := [one for one in group if one.answers and one.verdict == "leak"]
        ):
            return "inconclusive", f"{alone[0].place}: {alone[0].reason}"
        for scored in group:
            # Among many updates one may pass its own bound by chance: it must pass it twice over.
            if scored.verdict == "leak" and scored.chance:
                bound = 2 * max(scored.chance) - fmean(scored.chance)
                if fmean(scored.values(scored.verdict_metric)) > bound:
                    return "leak", f"{scored.place}: {scored.reason}"
        open_ = [
            scored
            for scored in group
            if scored.verdict == "inconclusive" and scored.reason != EMPTY
        ]
        if verdict == "no-leak" and open_:
            return "inconclusive", f"{open_[0].place}: {open_[0].reason}"
        return verdict, reason

    def _evidence(self, known: Sequence[Scored]) -> Evidence:
        negative: dict[str, Interval] = {}
        if all(scored.chance for scored in known):
            negative["no_gradient"] = _spread([scored.chance for scored in known])
        if all(scored.other for scored in known):
            negative["other_update"] = self._interval([scored.other for scored in known])
        positive = [scored.positive for scored in known if scored.positive]
        return Evidence(
            score=self._interval([scored.values(scored.verdict_metric) for scored in known]),
            controls=negative,
            positive=self._interval(positive) if positive else None,
            positive_exact=any(scored.positive_exact for scored in known),
            positive_error=next((s.positive_error for s in known if s.positive_error), ""),
            exact=sum(
                exact([pair.truth for pair in scored.pairs], scored.samples, but_last=self.but_last)
                for scored in known
            ),
            samples=sum(len(scored.samples) for scored in known),
            exact_by_control=any(scored.negative_exact for scored in known),
        )

    def _interval(self, values: Sequence[Sequence[float]]) -> Interval:
        """Return the interval that a verdict goes by; Wilson's is too wide for few updates.

        What one update's worth of samples may hide, :func:`decide` finds by the exact ones.
        """
        return cluster_interval(values, seed=derive(self.seed, "bootstrap"))


def _sure(scored: Scored) -> int:
    """Return how many texts an attack was sure of."""
    attempt = scored.attempt
    return len(attempt.sequences) if attempt.diagnostics.get("best_effort") is False else 0


def exact(truths: Sequence[Tokens], samples: Sequence[Metrics], *, but_last: bool) -> int:
    """Return how many samples of ``TELLING`` tokens or more were read exactly."""
    name = "exact_match_but_last" if but_last else "exact_match"
    whole = zip(truths, samples, strict=True)
    return sum(len(truth) >= TELLING and metrics[name] == 1.0 for truth, metrics in whole)


def _spread(draws: Sequence[Sequence[float]]) -> Interval:
    """Return where 95 % of the control's means fall when it is drawn again, over all updates."""
    shortest = min(map(len, draws))
    values = np.mean([draw[:shortest] for draw in draws], axis=0)
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))
