"""Scores what attacks guessed: pairs it with the vault, adds the controls, says the verdict.

Failures count as zeros: an update on which an attack raised, or found nothing, is scored like any
other. Special tokens are dropped on both sides.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fedsim import limits
from fedsim.lab.scoring.counted import WholeBatch, bare
from fedsim.lab.scoring.intervals import metric_interval
from fedsim.lab.scoring.judge import EMPTY, Judge, exact
from fedsim.lab.scoring.membership import Answers, intervals
from fedsim.lab.scoring.metrics import Pair, chance_overlaps, hits, match, sample_metrics
from fedsim.lab.scoring.rouge import silent
from fedsim.lab.scoring.scored import Metrics, Scored, means
from fedsim.lab.scoring.silence import without_truth
from fedsim.lab.store.attempts import AttackRecord
from fedsim.lab.store.figures import COUNTED, PRECISION, VERDICT_METRIC, Interval
from fedsim.lab.store.summary import Judgement, Leakage
from fedsim.models import ModelAdapter
from fedsim.rng import derive
from fedsim.types import Tokens
from fedsim.vault.reader import Truths

MOST = 2000  # guesses of one draw of the no-gradient control
ROUGE_DRAWS = 5  # of the no-gradient control; token metrics take all its draws


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Turns the attempts of attacks into scores.

    Attributes:
        adapter: decodes tokens and knows which are special.
        vault: the truth; None where none is known (a foreign project's captures).
        pool: unrelated sequences, for the no-gradient control.
        controls: False after ``--quick``: then there are none, so no verdict.
        seed: of the control's draws and of the bootstrap.
        unsure: why silence says nothing, however well the control worked; "": it does.
        looks: what hides texts in the updates, by the looks of them; "": nothing.
    """

    adapter: ModelAdapter
    vault: Truths | None
    pool: Sequence[Tokens]
    controls: bool
    seed: int
    unsure: str = ""
    looks: str = ""

    @property
    def but_last(self) -> bool:
        """Whether a gradient carries no sequence's last token: it is only ever a target."""
        return self.adapter.spec.task == "causal-lm"

    @property
    def judge(self) -> Judge:
        """What says the verdicts."""
        return Judge(
            controls=self.controls,
            but_last=self.but_last,
            seed=self.seed,
            unsure=self.unsure,
            looks=self.looks,
        )

    def score(self, attempts: Sequence[AttackRecord]) -> list[Scored]:
        """Return one score for each attacked update, in the order of ``attempts``."""
        return [self._score(attempt, attempts) for attempt in attempts if attempt.role == "attack"]

    def _score(self, attempt: AttackRecord, attempts: Sequence[AttackRecord]) -> Scored:
        scored = Scored(attempt=attempt)
        if attempt.asked:
            return self._recognised(scored, attempts)
        if attempt.reads != "texts":
            return self._counted(scored, attempts)
        clients = attempt.clients or [attempt.client]
        truth = self.vault.truth(attempt.round, *clients) if self.vault else None
        truths = self._clean(truth.sequences) if truth else []
        if truth is not None and not truth.sequences:
            scored.reason = EMPTY
            scored.hits = self._hits([], len(self._clean(attempt.sequences)) + attempt.dropped)
            return scored
        if not truths:
            scored.reason = without_truth([attempt], self.looks)
            return scored
        scored.pairs, surplus = self._pair(truths, self._clean(attempt.sequences))
        scored.hits = self._hits(scored.pairs, surplus + attempt.dropped)
        scored.samples = [sample_metrics(pair, but_last=self.but_last) for pair in scored.pairs]
        if self.controls:
            self._controls(scored, truths, attempts)
        scored.verdict, scored.reason = self.judge.verdict([scored])
        return scored

    def _recognised(self, scored: Scored, attempts: Sequence[AttackRecord]) -> Scored:
        """Score what an attack said about candidates."""
        answers = Answers.of(scored.attempt)
        if not answers.metrics():  # an empty batch has no members
            scored.reason = EMPTY
            return scored
        scored.answers = answers
        if beside := scored.answers.beside():
            scored.controls["other_update"] = beside
        if self.controls and (positive := _positive(scored.attempt, attempts)):
            scored.positive_error = positive.error or ""
            if positive.asked:
                scored.own_answers = Answers.of(positive)
                scored.controls["positive"] = scored.own_answers.metrics()
                if on_own := scored.own_answers.beside():
                    scored.controls["own_update"] = on_own
        scored.verdict, scored.reason = self.judge.verdict([scored])
        return scored

    def _counted(self, scored: Scored, attempts: Sequence[AttackRecord]) -> Scored:
        """Score what an attack said of the whole batch, in no order."""
        mine = scored.attempt
        clients = mine.clients or [mine.client]
        known = self.vault.truth(mine.round, *clients) if self.vault else None
        whole = WholeBatch.of(known, mine.reads, self.adapter.special)
        if known is None or not whole.there:
            empty = known is not None and not known.sequences
            scored.reason = EMPTY if empty else without_truth([mine], self.looks)
            return scored
        scored.counted = whole.compared(mine.sequences)
        if self.controls:
            lot = random.Random(derive(self.seed, "chance", mine.round, mine.client))
            pool, labels = self._clean(self.pool), self.adapter.spec.num_labels
            scored.chance = whole.unrelated(mine.sequences, len(known.sequences), pool, labels, lot)
            if scored.chance:
                scored.controls["no_gradient"] = {COUNTED: fmean(scored.chance)}
            own = _positive(mine, attempts)
            others = _others(mine, attempts) or ([] if own is None else [own])
            if other := [whole.compared(one.sequences) for one in others]:
                scored.other = [metrics[COUNTED] for metrics in other]
                scored.controls["other_update"] = means(other)
            if own is not None:
                scored.positive_error = own.error or ""
                scored.controls["positive"] = whole.holding(own.truth).compared(own.sequences)
                scored.positive = [scored.controls["positive"][COUNTED]]
        scored.verdict, scored.reason = self.judge.verdict([scored])
        return scored

    def _hits(self, pairs: Sequence[Pair], surplus: int) -> dict[str, list[float]]:
        """Return whether each guess is right, by the names of ``PRECISION``."""
        told = {"precision": hits(pairs, surplus)}
        if self.but_last:
            told["precision_but_last"] = hits(pairs, surplus, but_last=True)
        return told

    def _controls(
        self, scored: Scored, truths: list[Tokens], attempts: Sequence[AttackRecord]
    ) -> None:
        self._no_gradient(scored, truths)
        mine = scored.attempt
        positive = [one for one in [_positive(mine, attempts)] if one is not None]
        others = _others(mine, attempts)
        other = [m for a in others or positive for m in self._metrics(truths, a.sequences)]
        scored.negative_exact |= self._exact(truths, other)
        if other:
            scored.other = [metrics[VERDICT_METRIC] for metrics in other]
            scored.controls["other_update"] = means(other)
        if positive:
            own = self._clean(positive[0].truth)
            public = self._metrics(own, positive[0].sequences)
            scored.positive = [metrics[VERDICT_METRIC] for metrics in public]
            scored.positive_exact = exact(own, public, but_last=self.but_last) > 0
            scored.positive_error = positive[0].error or ""
            scored.controls["positive"] = means(public)

    def _no_gradient(self, scored: Scored, truths: list[Tokens]) -> None:
        """Score as many unrelated sentences as were guessed: what is had without the update."""
        pool = self._clean(self.pool)
        if not pool:
            return
        chance = random.Random(
            derive(self.seed, "chance", scored.attempt.round, scored.attempt.client)
        )
        count = max(len(truths), min(MOST, len(scored.attempt.sequences)))
        draws = [
            chance.choices(range(len(pool)), k=count)
            for _ in range(max(20, min(200, 800 // count)))
        ]
        scored.chance = chance_overlaps(truths, pool, draws)
        metrics: list[Metrics] = []
        for draw in draws[:ROUGE_DRAWS]:
            metrics += self._metrics(truths, [pool[place] for place in draw])
        scored.negative_exact |= self._exact(truths, metrics)
        scored.controls["no_gradient"] = means(metrics) | {VERDICT_METRIC: fmean(scored.chance)}

    def _exact(self, truths: Sequence[Tokens], samples: Sequence[Metrics]) -> bool:
        """Return whether one of ``samples``, those of ``truths`` time and again, is telling."""
        again = [*truths] * (len(samples) // len(truths))
        return exact(again, samples, but_last=self.but_last) > 0

    def _metrics(self, truths: list[Tokens], guesses: Sequence[Sequence[int]]) -> list[Metrics]:
        pairs, _ = self._pair(truths, self._clean(guesses))
        return [sample_metrics(pair, but_last=self.but_last) for pair in pairs]

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
        return [tokens for tokens in bare(sequences, special) if tokens]

    def _decode(self, tokens: Tokens) -> str:
        return str(self.adapter.tokenizer.decode(list(tokens)))

    def leakage(self, scores: Sequence[Scored]) -> tuple[Leakage, dict[str, Judgement]]:
        """Return summary.json's ``leakage`` and ``verdicts``, each by attack."""
        leakage: Leakage = {}
        verdicts: dict[str, Judgement] = {}
        for name in dict.fromkeys(scored.attempt.attack for scored in scores):
            group = [scored for scored in scores if scored.attempt.attack == name]
            verdict, reason = self.judge.together(group)
            count = sum(len(scored.samples) for scored in group)
            told: dict[str, Any] = {"silent": counted} if (counted := _silent(group)) else {}
            verdicts[name] = Judgement(
                verdict=verdict, reason=reason, updates=len(group), samples=count, **told
            )
            leakage[name] = self._means(group)
        return leakage, verdicts

    def _means(self, group: Sequence[Scored]) -> dict[str, Interval]:
        """Return each metric over the samples that have it, and precision over the guesses."""
        if answers := [scored.answers for scored in group if scored.answers]:
            return intervals(answers, derive(self.seed, "bootstrap"))
        named = (
            name
            for scored in group
            for metrics in [*scored.samples, scored.counted]
            for name in metrics
        )
        return {
            metric: metric_interval(metric, known, seed=derive(self.seed, "bootstrap"))
            for metric in dict.fromkeys([*named, *PRECISION])
            if (known := [some for scored in group if (some := scored.values(metric))])
        }

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
        updates = {(s.attempt.round, s.attempt.client): s.samples for s in scores}  # once each
        wordless = ["rouge1" not in metrics for some in updates.values() for metrics in some]
        if any(wordless):
            lines.append(
                f"{sum(wordless)} of {len(wordless)} texts have no word (punctuation, emoji): "
                "there is no ROUGE of them, and its means are over the others."
            )
        dropped = Counter[str]()
        for scored in scores:
            dropped[scored.attempt.attack] += scored.attempt.dropped
        lines += [
            f"{name} put out more than {limits.GUESSES:,} guesses on an update: {count:,} were not "
            "looked at, and count as wrong."
            for name, count in dropped.items()
            if count
        ]
        errors = {scored.attempt.error for scored in scores if scored.attempt.error}
        return lines + [f"an attack could not run: {error}" for error in sorted(errors)]


def _positive(mine: AttackRecord, attempts: Sequence[AttackRecord]) -> AttackRecord | None:
    """Return the positive control of an attempt, if it was run."""
    wanted = (mine.attack, mine.round, "positive", mine.client)
    return next((a for a in attempts if (a.attack, a.round, a.role, a.client) == wanted), None)


def _others(mine: AttackRecord, attempts: Sequence[AttackRecord]) -> list[AttackRecord]:
    """Return the same attack on other clients of the round."""
    same = [a for a in attempts if (a.attack, a.round) == (mine.attack, mine.round)]
    return [a for a in same if a.role == "attack" and a.client != mine.client]


def _silent(group: Sequence[Scored]) -> dict[str, int]:
    """Return of how many samples a metric says nothing, by metric."""
    return dict(Counter(m for s in group for pair in s.pairs for m in silent(pair.truth_text)))
