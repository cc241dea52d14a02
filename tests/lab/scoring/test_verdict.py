import re

import pytest

from fedsim.lab.scoring.metrics import Pair, sample_metrics
from fedsim.lab.scoring.verdict import Evidence, decide
from fedsim.lab.store.figures import VERDICT_METRIC, Interval

HIGH, MIDDLE, LOW = Interval(0.9, 0.8, 1.0), Interval(0.4, 0.3, 0.5), Interval(0.1, 0.05, 0.2)
CONTROLS = {"no_gradient": LOW, "other_update": Interval(0.08, 0.02, 0.25)}


def test_the_verdict_metric_is_one_that_is_measured() -> None:
    pair = Pair(truth=(1,), guess=(1,), truth_text="", guess_text="")
    assert sample_metrics(pair, but_last=False)[VERDICT_METRIC] == 1.0


# Each row follows from the rule: leak = above every control's upper end (0.25);
# no-leak = not that, while the positive control is above it too and reaches 0.5 on average.
@pytest.mark.parametrize(
    ("score", "controls", "positive", "verdict", "reason"),
    [
        (HIGH, CONTROLS, HIGH, "leak", r"0\.900 .* above the strongest .* other_update, 0\.080"),
        (MIDDLE, CONTROLS, None, "leak", "above"),  # a leak needs no positive control
        (HIGH, CONTROLS, MIDDLE, "leak", "above"),  # it shows something, too: no floor
        (HIGH, CONTROLS, LOW, "inconclusive", r"above .* But the attack failed its own positive"),
        (HIGH, CONTROLS, Interval(0.4, 0.25, 0.6), "inconclusive", "failed its own"),  # touching
        (LOW, CONTROLS, HIGH, "no-leak", r"0\.100 .* not above .* positive control reached 0\.900"),
        (Interval(0.4, 0.25, 0.6), CONTROLS, HIGH, "no-leak", "not above"),  # touching
        (Interval(0.9, 0.2, 1.0), CONTROLS, HIGH, "no-leak", "not above"),  # high mean, wide
        (Interval(0.4, 0.22, 0.6), CONTROLS, HIGH, "no-leak", "not above"),  # above only one
        (LOW, CONTROLS, None, "inconclusive", "no positive control showed"),
        (LOW, CONTROLS, LOW, "inconclusive", "but neither is the positive control, 0.100"),
        (LOW, CONTROLS, Interval(0.9, 0.25, 1.0), "inconclusive", "it failed"),  # touching
        (LOW, CONTROLS, MIDDLE, "inconclusive", "reached 0.400 .* less than the 0.500 wanted"),
        (LOW, CONTROLS, Interval(0.5, 0.3, 0.7), "no-leak", "while"),  # the floor itself is enough
        (HIGH, {}, HIGH, "inconclusive", "without negative controls"),
        (LOW, {}, HIGH, "inconclusive", "without negative controls"),
        (None, CONTROLS, HIGH, "inconclusive", "no truth to score against"),
        (None, {}, None, "inconclusive", "no truth to score against"),
    ],
)
def test_the_verdict_follows_the_rule_and_says_why(
    score: Interval | None,
    controls: dict[str, Interval],
    positive: Interval | None,
    verdict: str,
    reason: str,
) -> None:
    got, why = decide(Evidence(score=score, controls=controls, positive=positive))
    assert got == verdict
    assert re.search(reason, why)
    assert why.endswith(".")
    assert "\n" not in why


def test_the_floor_is_the_callers() -> None:
    strict = Evidence(score=LOW, controls=CONTROLS, positive=HIGH, positive_floor=0.95)
    assert decide(strict)[0] == "inconclusive"
    assert decide(Evidence(score=LOW, controls=CONTROLS, positive=HIGH))[0] == "no-leak"


def test_the_order_of_controls_does_not_matter() -> None:
    tied = {"b": LOW, "a": LOW}
    forward = decide(Evidence(score=HIGH, controls=tied, positive=None))
    backward = decide(Evidence(score=HIGH, controls=dict(reversed(tied.items())), positive=None))
    assert forward == backward


@pytest.mark.parametrize("score", [LOW, Interval(0.25, 0.0, 0.75)])
def test_one_sample_read_exactly_is_a_leak_whatever_the_mean(score: Interval) -> None:
    shared = {"score": score, "controls": CONTROLS, "positive": HIGH, "samples": 4}
    got, why = decide(Evidence(**shared, exact=1))  # type: ignore[arg-type]
    assert got == "leak" and why.startswith("1 of 4 samples were read exactly")
    got, why = decide(Evidence(**shared, exact=1, exact_by_control=True))  # type: ignore[arg-type]
    assert got == "inconclusive" and "negative control" in why
    assert decide(Evidence(**shared))[0] == "no-leak"  # type: ignore[arg-type]


@pytest.mark.parametrize("score", [LOW, HIGH])
def test_what_an_attack_reads_that_fails_its_own_control_is_said_and_no_leak(
    score: Interval,
) -> None:
    shared = {"score": score, "controls": CONTROLS, "positive": LOW, "samples": 4, "exact": 2}
    got, why = decide(Evidence(**shared))  # type: ignore[arg-type]
    assert got == "inconclusive" and "2 of 4 samples were read exactly" in why
    assert "failed its own positive control, 0.100" in why
    got, why = decide(Evidence(**shared, positive_error="no q, k, v"))  # type: ignore[arg-type]
    assert got == "inconclusive" and "2 of 4 samples were read exactly" in why
    assert "could not run on its positive control: no q, k, v" in why
    got, why = decide(Evidence(**shared, positive_exact=True))  # type: ignore[arg-type]
    assert got == "leak"  # it read one of its own texts, if not many
    got, why = decide(Evidence(**{**shared, "positive": None}))  # type: ignore[arg-type]
    assert got == "leak"  # it was not run
