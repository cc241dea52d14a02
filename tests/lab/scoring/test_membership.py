"""Figures about candidates, against plain loops, and the verdict's rule."""

import re

import numpy as np
import pytest

from fedsim.lab.scoring.membership import Answers, Compared, auc, decide, intervals, rate_interval
from fedsim.lab.scoring.scorer import Scorer
from fedsim.lab.store.attempts import Asked, AttackRecord
from fedsim.lab.store.figures import Interval
from tests.lab.conftest import preset

LOW, HIGH, MIDDLE = Interval(0.01, 0.0, 0.03), Interval(0.8, 0.7, 0.9), Interval(0.3, 0.2, 0.4)


def record(kinds: list[str], scores: list[float], called: list[bool], role: str = "attack",
           client: int = 0) -> AttackRecord:  # fmt: skip
    rows = [sum(one == kind for one in kinds[:place]) for place, kind in enumerate(kinds)]
    return AttackRecord(
        attack="membership", role=role, round=1, client=client, seconds=1.0, sequences=[],
        texts=[], scores=scores, members=called,
        asked=[Asked(kind=kind, row=row) for kind, row in zip(kinds, rows, strict=True)],
    )  # fmt: skip


def test_auc_is_the_share_of_pairs_in_order_and_ties_count_half() -> None:
    chance = np.random.default_rng(0)
    inside = chance.integers(0, 9, 23).astype(np.float64)
    outside = chance.integers(0, 7, 31).astype(np.float64)
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside]
    assert auc(inside, outside) == pytest.approx(sum(pairs) / len(pairs))


def test_figures_by_hand() -> None:
    kinds = ["outsider", "member", "twin", "member", "outsider", "other", "twin"]
    scores = [0.5, 3.0, 2.0, 0.0, 0.1, 0.2, 0.4]
    told = Answers.of(record(kinds, scores, [False, True, True, False, True, False, False]))
    metrics = told.metrics()
    assert metrics["auc"] == 0.5  # of 4 pairs, those of the member at 3.0
    assert (metrics["tpr"], metrics["fpr"]) == (0.5, 0.5)
    assert metrics["beats_twin"] == 0.5  # 3.0 > 2.0, and 0.0 < 0.4
    assert not {"tpr_at_1pct_fpr", "tpr_at_0.1pct_fpr"} & set(metrics)  # of 2 outsiders
    assert told.beside() == {"auc": 0.5, "tpr": 0.0}


def test_a_rate_at_one_percent_wants_a_hundred_outsiders() -> None:
    outsiders = [float(place) for place in range(100)]
    kinds = ["outsider"] * 100 + ["member"] * 4
    told = Answers.of(record(kinds, [*outsiders, 98.5, 200.0, 97.0, 99.5], [False] * 104))
    # numpy's quantile .99 of 0 to 99 is 98.01
    assert told.metrics()["tpr_at_1pct_fpr"] == 0.75
    assert "tpr_at_0.1pct_fpr" not in told.metrics()


def test_an_interval_of_few_updates_is_no_narrower_than_its_candidates_allow() -> None:
    made = rate_interval([[1.0] * 60 + [0.0] * 40, [1.0] * 61 + [0.0] * 39], seed=1)
    assert made.mean == pytest.approx(0.605)
    assert made.low < 0.54 and made.high > 0.66  # Wilson of 121 of 200: .536 to .670


def test_intervals_hold_every_figure_and_their_means() -> None:
    kinds = ["member"] * 5 + ["outsider"] * 5
    one = Answers.of(record(kinds, [5, 4, 3, 2, 1, 0, 0, 0, 0, 0], [True] * 4 + [False] * 6))
    told = intervals([one], seed=1)
    assert told["auc"].mean == 1.0 and told["tpr"].mean == 0.8 and told["fpr"].mean == 0.0
    assert all(figure.low <= figure.mean <= figure.high for figure in told.values())


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "leak", "80.0% .* of the members are recognised, but 1.0%"),
        ({"own": None, "own_outsiders": None}, "leak", "recognised"),  # it needs no control
        ({"own": LOW}, "inconclusive", "of an update of its own it recognises"),
        ({"others": MIDDLE, "members": MIDDLE}, "inconclusive", "other clients' texts"),
        ({"on_own": HIGH}, "inconclusive", "that is no absence"),
        ({"on_own": Interval(0.0, 0.0, 0.79)}, "leak", "recognised"),  # of one text
        ({"members": LOW}, "no-leak", "no more than"),
        ({"members": LOW, "auc": 0.9}, "inconclusive", "AUC of 0.90"),
        ({"members": LOW, "unlike": True}, "inconclusive", "no absence"),
        ({"members": Interval(0.0, 0.0, 0.4)}, "inconclusive", "no absence"),  # of few
        ({"members": LOW, "own": LOW}, "inconclusive", "its silence says nothing"),
        ({"members": LOW, "own": None, "error": "it broke"}, "inconclusive", "it broke"),
        ({"unlike": True}, "leak", "Public texts are not like the candidates"),
        ({"outsiders": Interval(0.3, 0.2, 0.4)}, "leak", "Public texts are not like"),
    ],
)
def test_the_verdict(changes: dict[str, object], verdict: str, reason: str) -> None:
    told = Compared(
        **{
            "members": HIGH, "outsiders": LOW, "others": None, "on_own": None, "own": HIGH,
            "own_outsiders": LOW, **changes,
        }  # type: ignore[arg-type]
    )  # fmt: skip
    said, why = decide(told)
    assert said == verdict
    assert re.search(reason, why)


def test_an_empty_batch_is_no_absence_and_ends_no_run() -> None:
    kinds = ["outsider"] * 120
    empty = record(kinds, [0.0] * 120, [False] * 120)
    scorer = Scorer(adapter=preset(), vault=None, pool=(), controls=True, seed=1)
    (scored,) = scorer.score([empty])
    assert scored.verdict == "inconclusive" and "empty" in scored.reason
    assert scorer.leakage([scored])[1]["membership"].verdict == "inconclusive"


def test_the_one_client_that_was_recognised_is_not_hidden_by_the_others() -> None:
    kinds = ["member"] * 16 + ["outsider"] * 200
    attempts = []
    for client in range(20):
        called = [client == 3] * 16 + [False] * 200
        attempts += [record(kinds, [float(one) for one in called], called, client=client)]
        works = [True] * 16 + [False] * 200
        attempts += [
            record(kinds, [float(one) for one in works], works, role="positive", client=client)
        ]
    scorer = Scorer(adapter=preset(), vault=None, pool=(), controls=True, seed=1)
    scores = scorer.score(attempts)
    assert [one.verdict for one in scores].count("leak") == 1
    assert scorer.leakage(scores)[1]["membership"].verdict != "no-leak"


def test_a_scorer_judges_answers_beside_their_control() -> None:
    kinds = ["member"] * 40 + ["outsider"] * 120 + ["other"] * 40
    good = [True] * 36 + [False] * 164
    numbers = [float(called) + place / 1e4 for place, called in enumerate(good)]
    attempts = [record(kinds, numbers, good), record(kinds, numbers, good, role="positive")]
    scorer = Scorer(adapter=preset(), vault=None, pool=(), controls=True, seed=1)
    (scored,) = scorer.score(attempts)
    assert scored.verdict == "leak" and set(scored.controls) == {
        "other_update", "positive", "own_update",
    }  # fmt: skip
    leakage, verdicts = scorer.leakage([scored])
    assert leakage["membership"]["tpr"].mean == 0.9
    assert verdicts["membership"].verdict == "leak"
    silent = Scorer(adapter=preset(), vault=None, pool=(), controls=False, seed=1)
    assert silent.score(attempts)[0].verdict == "inconclusive"  # --quick
