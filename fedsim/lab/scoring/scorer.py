"""Scores what attacks guessed: pairs it with the vault, adds the controls, says the verdict.

Failures count as zeros: an update on which an attack raised, or found nothing, is scored like any
other. Special tokens are dropped on both sides.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from fedsim.lab.scoring.intervals import Interval, cluster_interval, metric_interval
from fedsim.lab.scoring.metrics import (
    Pair,
    chance_overlaps,
    emitted_precision,
    match,
    sample_metrics,
)
from fedsim.lab.scoring.verdict import VERDICT_METRIC, Evidence, Verdict, decide
from fedsim.models import ModelAdapter
from fedsim.rng import derive
from fedsim.types import Tokens
from fedsim.vault.reader import VaultReader

NEGATIVE = ("no_gradient", "other_update")
TELLING = 3  # tokens from which on a sample that was read exactly was not guessed
GAVE_UP = "cut"  # the diagnostic of an attack that stopped at a limit of its own, not at an answer
EMPTY = "The client's batch was empty: its update is noise alone."
MOST = 2000  # guesses of one draw of the no-gradient control
ROUGE_DRAWS = 5  # of the no-gradient control; token metrics take all its draws

Row = Mapping[str, Any]
Samples = list[dict[str, float]]


@dataclass
class Scored:
    """One attack on one client's update, scored."""

    row: Row
    pairs: list[Pair] = field(default_factory=list)
    samples: Samples = field(default_factory=list)  # metrics per sample; none: no truth is known
    surplus: int = 0  # guesses without a truth
    chance: list[float] = field(default_factory=list)  # VERDICT_METRIC of each no-gradient draw
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    other: list[float] = field(default_factory=list)  # VERDICT_METRIC of the other-update control
    positive: list[float] = field(default_factory=list)  # and of the positive control
    verdict: Verdict = "inconclusive"
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Turns lines of reconstructions.jsonl into scores.

    Attributes:
        adapter: decodes tokens and knows which are special.
        vault: the truth; None where none is known (a foreign project's captures).
        pool: unrelated sequences, for the no-gradient control.
        controls: False after ``--quick``: then there are none, so no verdict.
        seed: of the control's draws and of the bootstrap.
    """

    adapter: ModelAdapter
    vault: VaultReader | None
    pool: Sequence[Tokens]
    controls: bool
    seed: int

    @property
    def but_last(self) -> bool:
        """Whether a gradient carries no sequence's last token: it is only ever a target."""
        return self.adapter.spec.task == "causal-lm"

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """Return one score for each attacked update, in the order of ``rows``."""
        attacked = [row for row in rows if row["role"] == "attack"]
        return [self._one(row, rows) for row in attacked]

    def _one(self, row: Row, rows: Sequence[Row]) -> Scored:
        scored = Scored(row=row)
        clients = row.get("clients", [row["client"]])  # several: their sum was attacked
        truth = self.vault.truth(row["round"], *clients) if self.vault else None
        truths = self._clean(truth.sequences) if truth else []
        if truth is not None and not truth.sequences:
            scored.reason = EMPTY
            return scored
        if not truths:
            scored.reason = "No truth is known for this update."
            return scored
        scored.pairs, scored.surplus = self._pair(truths, self._clean(row["sequences"]))
        scored.samples = [sample_metrics(one, but_last=self.but_last) for one in scored.pairs]
        if self.controls:
            self._controls(scored, truths, rows)
        scored.verdict, scored.reason = self._verdict([scored])
        return scored

    def _controls(self, scored: Scored, truths: list[Tokens], rows: Sequence[Row]) -> None:
        self._no_gradient(scored, truths)
        same = [r for r in rows if r["attack"] == scored.row["attack"]]
        same = [r for r in same if r["round"] == scored.row["round"]]
        mine = [r for r in same if r["client"] == scored.row["client"]]
        positive = [r for r in mine if r["role"] == "positive"]
        others = [r for r in same if r["role"] == "attack" and r not in mine]
        other = [m for r in others or positive for m in self._metrics(truths, r["sequences"])]
        if other:
            scored.other = [one[VERDICT_METRIC] for one in other]
            scored.controls["other_update"] = means(other)
        if positive:
            own = self._metrics(self._clean(positive[0]["truth"]), positive[0]["sequences"])
            scored.positive = [one[VERDICT_METRIC] for one in own]
            scored.controls["positive"] = means(own)

    def _no_gradient(self, scored: Scored, truths: list[Tokens]) -> None:
        """Score as many unrelated sentences as were guessed: what is had without the update."""
        pool = self._clean(self.pool)
        if not pool:
            return
        chance = random.Random(
            derive(self.seed, "chance", scored.row["round"], scored.row["client"])
        )
        count = max(len(truths), min(MOST, len(scored.row["sequences"])))
        draws = [
            chance.choices(range(len(pool)), k=count)
            for _ in range(max(20, min(200, 800 // count)))
        ]
        scored.chance = chance_overlaps(truths, pool, draws)
        metrics: Samples = []
        for draw in draws[:ROUGE_DRAWS]:
            metrics += self._metrics(truths, [pool[place] for place in draw])
        scored.controls["no_gradient"] = means(metrics) | {VERDICT_METRIC: fmean(scored.chance)}

    def _metrics(self, truths: list[Tokens], guesses: Sequence[Sequence[int]]) -> Samples:
        pairs, _ = self._pair(truths, self._clean(guesses))
        return [sample_metrics(one, but_last=self.but_last) for one in pairs]

    def _pair(self, truths: list[Tokens], guesses: list[Tokens]) -> tuple[list[Pair], int]:
        chosen = match(truths, guesses)
        pairs = [
            Pair(
                truth=truth,
                guess=() if place is None else guesses[place],
                truth_text=self._decode(truth),
                guess_text="" if place is None else self._decode(guesses[place]),
            )
            for truth, place in zip(truths, chosen, strict=True)
        ]
        return pairs, len(guesses) - sum(place is not None for place in chosen)

    def _clean(self, sequences: Sequence[Sequence[int]]) -> list[Tokens]:
        special = self.adapter.special
        kept = (tuple(t for t in tokens if t not in special) for tokens in sequences)
        return [tokens for tokens in kept if tokens]

    def _decode(self, tokens: Tokens) -> str:
        return str(self.adapter.tokenizer.decode(list(tokens)))

    def _verdict(self, group: Sequence[Scored]) -> tuple[Verdict, str]:
        """Return the verdict over ``group``: one update, or all that one attack was run on."""
        errors = [one.row["error"] for one in group if one.row["error"]]
        known = [one for one in group if one.samples]
        if not known:
            return "inconclusive", "There is no truth to score against."
        if not self.controls:
            return "inconclusive", "The controls were skipped."
        negative: dict[str, Interval] = {}
        if all(one.chance for one in known):
            negative["no_gradient"] = _spread([one.chance for one in known])
        if all(one.other for one in known):
            negative["other_update"] = self._interval([one.other for one in known])
        positive = [one.positive for one in known if one.positive]
        controls = [one.controls.get(name, {}) for one in known for name in NEGATIVE]
        verdict, reason = decide(
            Evidence(
                score=self._interval([self._values(one, VERDICT_METRIC) for one in known]),
                controls=negative,
                positive=self._interval(positive) if positive else None,
                exact=sum(self._exact(one) for one in known),
                samples=sum(len(one.samples) for one in known),
                exact_by_control=any(one.get("exact_match", 0.0) > 0 for one in controls),
            )
        )
        if errors and verdict == "no-leak":
            return "inconclusive", f"The attack could not run: {errors[0]}."
        if verdict == "no-leak" and any(one.row["diagnostics"].get(GAVE_UP) for one in known):
            return "inconclusive", f"{reason} But it gave up at its own limits before the end."
        return verdict, reason

    def _together(self, group: Sequence[Scored]) -> tuple[Verdict, str]:
        """Return one verdict for all updates: a mean must not hide the client that was read."""
        verdict, reason = self._verdict(group)
        if verdict == "leak":
            return verdict, reason
        for one in group:
            # Among many updates one may pass its own bound by chance: it must pass it twice over.
            if one.verdict == "leak" and one.chance:
                bound = 2 * max(one.chance) - fmean(one.chance)
                if fmean(self._values(one, VERDICT_METRIC)) > bound:
                    place = f"round {one.row['round']}, client {one.row['client']}"
                    return "leak", f"{place}: {one.reason}"
        open_ = [one for one in group if one.verdict == "inconclusive" and one.reason != EMPTY]
        if verdict == "no-leak" and open_:
            place = f"round {open_[0].row['round']}, client {open_[0].row['client']}"
            return "inconclusive", f"{place}: {open_[0].reason}"
        return verdict, reason

    def _exact(self, scored: Scored) -> int:
        """Return how many samples of ``TELLING`` tokens or more were read exactly."""
        name = "exact_match_but_last" if self.but_last else "exact_match"
        whole = zip(scored.pairs, scored.samples, strict=True)
        return sum(len(pair.truth) >= TELLING and one[name] == 1.0 for pair, one in whole)

    def _values(self, scored: Scored, metric: str) -> list[float]:
        return [one[metric] for one in scored.samples]

    def _interval(self, values: Sequence[Sequence[float]]) -> Interval:
        """Return the interval that a verdict goes by; Wilson's is too wide for few updates.

        What one update's worth of samples may hide, :func:`decide` finds by the exact ones.
        """
        return cluster_interval(values, seed=derive(self.seed, "bootstrap"))

    def entry(self, scored: Scored) -> dict[str, Any]:
        """Return the score as an element of summary.json's ``attacks``."""
        row = scored.row
        found = means(scored.samples)
        if scored.samples:
            found["precision"] = emitted_precision(scored.pairs, scored.surplus)
        return {
            "attack": row["attack"],
            "settings": row["settings"],
            "knowledge": row["knowledge"],
            "round": row["round"],
            "client": row["client"],
            **({"clients": row["clients"]} if "clients" in row else {}),
            "samples": len(scored.samples),
            "seconds": row["seconds"],
            "verdict": scored.verdict,
            "reason": scored.reason,
            "metrics": found,
            "controls": scored.controls,
            "diagnostics": row["diagnostics"],
            "error": row["error"],
        }

    def leakage(self, scores: Sequence[Scored]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return summary.json's ``leakage`` and ``verdicts``, each by attack."""
        leakage: dict[str, Any] = {}
        verdicts: dict[str, Any] = {}
        for name in dict.fromkeys(one.row["attack"] for one in scores):
            group = [one for one in scores if one.row["attack"] == name]
            verdict, reason = self._together(group)
            known = [one for one in group if one.samples]
            verdicts[name] = {
                "verdict": verdict,
                "reason": reason,
                "updates": len(group),
                "samples": sum(len(one.samples) for one in known),
            }
            leakage[name] = {
                metric: vars(
                    metric_interval(
                        metric,
                        [self._values(one, metric) for one in known],
                        seed=derive(self.seed, "bootstrap"),
                    )
                )
                for metric in (known[0].samples[0] if known else ())
            }
        return leakage, verdicts

    def notes(self, scores: Sequence[Scored]) -> list[str]:
        """Return what a reader of the figures must know."""
        lines = []
        if scores and self.but_last:
            lines.append(
                "a sequence's last token is only a target of a causal-lm loss: no block reads it, "
                "so an attack can miss it alone; the *_but_last figures leave it out."
            )
        if scores and self.adapter.spec.weights == "random":
            lines.append("the model started from random weights, not from pretrained ones.")
        errors = {one.row["error"] for one in scores if one.row["error"]}
        return lines + [f"an attack could not run: {error}" for error in sorted(errors)]


def means(samples: Samples) -> dict[str, float]:
    """Return each metric's mean over ``samples``; {} for none."""
    return {name: fmean(one[name] for one in samples) for name in (samples[0] if samples else ())}


def _spread(draws: Sequence[Sequence[float]]) -> Interval:
    """Return where 95 % of the control's means fall when it is drawn again, over all updates."""
    shortest = min(map(len, draws))
    values = np.mean([one[:shortest] for one in draws], axis=0)
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))
