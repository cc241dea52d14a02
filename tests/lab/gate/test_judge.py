"""What passes, what fails, and what nobody can say."""

import json
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from fedsim.lab.gate import (
    Check,
    Policy,
    Threshold,
    as_dict,
    as_junit,
    as_markdown,
    as_text,
    judge,
    overall,
)
from fedsim.lab.store.summary import Summary

ENTRY: dict[str, Any] = {
    "attack": "dager", "round": 1, "client": 0, "samples": 2, "guesses": 2, "seconds": 0.5,
    "verdict": "no-leak", "metrics": {}, "controls": {},
}  # fmt: skip


def summary_of(low: float = 0.1, high: float = 0.3, dager: str = "no-leak", **more: Any) -> Summary:
    spread = {"mean": (low + high) / 2, "low": low, "high": high}
    tree = {
        "schema": 1,
        "name": "one",
        "seed": 1,
        "attacks": [ENTRY],
        "leakage": {"dager": {"bag_f1": spread}},
        "verdicts": {"dager": {"verdict": dager, "reason": "Because."}},
        "utility": {
            "metric": "accuracy",
            "before": 0.5,
            "after": 0.8,
            "others": {"mcc": {"before": 0.0, "after": 0.25}},
        },
        "guarantee": {"epsilon": 3.0, "delta": 1e-5},
    }
    return Summary.model_validate({**tree, **more})


def asked(section: str, metric: str, attack: str = "", **bounds: float) -> Policy:
    key = ".".join(part for part in (section, attack, metric) if part)
    threshold = Threshold(key=key, section=section, attack=attack, metric=metric, **bounds)
    return Policy(thresholds=(threshold,), allow=None)


def outcome(policy: Policy, summary: Summary | str) -> str:
    return overall(judge(policy, "", summary))


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [
        ({"max": 0.3}, "pass"),  # the upper end, not the mean of 0.2
        ({"max": 0.29}, "fail"),
        ({"min": 0.1}, "pass"),  # the lower end
        ({"min": 0.11}, "fail"),
        ({"min": 0.05, "max": 0.4}, "pass"),
        ({"min": 0.05, "max": 0.25}, "fail"),
    ],
)
def test_leakage_is_held_by_the_intervals_ends(bounds: dict[str, float], wanted: str) -> None:
    assert outcome(asked("leakage", "bag_f1", "dager", **bounds), summary_of()) == wanted


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (asked("utility", "accuracy", min=0.8), "pass"),
        (asked("utility", "accuracy", min=0.81), "fail"),
        (asked("utility", "mcc", min=0.3), "fail"),
        (asked("utility", "perplexity", max=30), "inconclusive"),
        (asked("guarantee", "epsilon", max=3), "pass"),
        (asked("guarantee", "epsilon", max=2.9), "fail"),
        (asked("leakage", "bag_f1", "lamp", max=1), "inconclusive"),
        (asked("leakage", "rouge1", "dager", max=100), "inconclusive"),
    ],
)
def test_figures_that_are_there_and_that_are_not(policy: Policy, wanted: str) -> None:
    assert outcome(policy, summary_of()) == wanted


@pytest.mark.parametrize(
    ("policy", "more"),
    [
        (asked("leakage", "bag_f1", "dager", max=0.5), {"low": 0.6, "high": 0.2}),
        (asked("leakage", "bag_f1", "dager", max=0.5), {"low": -5, "high": -5}),
        (asked("guarantee", "epsilon", max=8), {"guarantee": {"epsilon": -1.0}}),
        (asked("guarantee", "epsilon", max=8), {"guarantee": {"epsilon": True}}),
        (asked("guarantee", "delta", max=0.5), {"guarantee": {"delta": -0.1}}),
        (
            asked("utility", "accuracy", min=0.5),
            {"utility": {"metric": "accuracy", "before": 0.5, "after": 80}},
        ),
    ],
)
def test_a_figure_that_cannot_be_is_never_a_pass(policy: Policy, more: dict[str, Any]) -> None:
    assert outcome(policy, summary_of(**more)) == "inconclusive"


def silent(count: int, metric: str, **more: Any) -> dict[str, Any]:
    spread = {"mean": 0.0, "low": 0.0, "high": 10.0}
    judged = {"verdict": "leak", "samples": 32, "silent": {metric: count}}
    return {"verdicts": {"dager": judged}, "leakage": {"dager": {metric: spread}}, **more}


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(0, "pass"), (3, "pass"), (4, "inconclusive"), (32, "inconclusive")],  # 10 + 100 x 3 / 32 < 20
)
def test_a_metric_that_says_nothing_of_some_texts(count: int, wanted: str) -> None:
    for metric in ("rouge1", "rouge2"):
        policy = asked("leakage", metric, "dager", max=20)
        (check,) = judge(policy, "", summary_of(**silent(count, metric)))
        assert check.outcome == wanted
        if wanted != "pass":
            assert f"{metric} says nothing of {count} of 32 texts" in check.why
    policy = asked("leakage", "rouge1", "dager", max=5)
    assert outcome(policy, summary_of(**silent(count, "rouge1"))) == "fail"  # it is one anyhow


def test_a_metric_that_is_absent_never_passes() -> None:
    judged = {"dager": {"verdict": "leak", "samples": 32, "silent": {"rouge1": 32}}}
    summary = summary_of(verdicts=judged)
    (check,) = judge(asked("leakage", "rouge1", "dager", max=20), "", summary)
    assert check.outcome == "inconclusive" and "no text has a word" in check.why
    (check,) = judge(asked("leakage", "precision", "dager", max=0.5), "", summary)
    assert check.outcome == "inconclusive" and "made no guess" in check.why


def test_no_guarantee_is_no_epsilon() -> None:
    policy = asked("guarantee", "epsilon", max=8)
    for nothing in (None, {}, {"epsilon": None}, {"epsilon": "small"}, {"epsilon": float("nan")}):
        assert outcome(policy, summary_of(guarantee=nothing)) == "inconclusive"
    assert outcome(policy, summary_of(guarantee={"epsilon": float("inf")})) == "fail"
    assert outcome(asked("utility", "accuracy", min=0), summary_of(utility=None)) == "inconclusive"


def test_an_inconclusive_verdict_never_passes_whatever_was_asked() -> None:
    """A broken attack reads nothing: below every maximum."""
    unsure = summary_of(low=0.0, high=0.0, dager="inconclusive")
    for policy in (
        asked("leakage", "bag_f1", "dager", max=0.5),
        asked("utility", "accuracy", min=0.1),
        Policy(thresholds=(), allow=("leak", "no-leak")),
    ):
        assert outcome(policy, unsure) == "inconclusive"
    assert outcome(
        asked("leakage", "bag_f1", "dager", max=0.5), summary_of(0.6, 0.7, "inconclusive")
    ) == ("fail")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"attacks": [ENTRY, {**ENTRY, "client": 1, "error": "broken"}]}, "not run on 1 of 2"),
        ({"attacks": []}, "no update is noted that the attack was run on"),
        ({"attacks": [{**ENTRY, "attack": "lamp"}]}, "no update is noted"),
        ({"verdicts": {}}, "the attack has no verdict"),
    ],
)
def test_low_figures_of_a_broken_attack_never_pass(more: dict[str, Any], why: str) -> None:
    summary = summary_of(dager="leak", **more)
    allowed = asked("leakage", "bag_f1", "dager", max=0.5)
    assert outcome(allowed, summary_of(dager="leak")) == "pass"
    (check,) = judge(allowed, "", summary)
    assert check.outcome == "inconclusive" and why in check.why
    assert outcome(asked("leakage", "bag_f1", "dager", max=0.2), summary) == "fail"  # it is one
    assert outcome(asked("utility", "accuracy", min=0.5), summary) == "pass"  # no attack's figure


def test_failed_clients_are_said() -> None:
    failed = summary_of(failures=[{"round": 1, "client": 3, "error": "x"}])
    (check,) = judge(asked("leakage", "bag_f1", "dager", max=0.5), "", failed)[:1]
    assert check.outcome == "pass" and "Failures of clients, in no figure: 1." in check.why


def test_verdicts() -> None:
    strict, loose = (
        Policy(thresholds=(), allow=allowed) for allowed in (("no-leak",), ("leak", "no-leak"))
    )
    earned, open_ = ({"verdict": v, "reason": "So."} for v in ("no-leak", "leak"))
    assert outcome(strict, summary_of(verdict=earned)) == "pass"
    assert outcome(strict, summary_of(dager="leak", verdict=open_)) == "fail"
    assert outcome(loose, summary_of(dager="leak", verdict=open_)) == "pass"
    assert outcome(strict, summary_of(verdicts={}, leakage={})) == "inconclusive"


def test_one_attacks_silence_is_not_the_runs() -> None:
    """Nor is a file's that does not say which kinds of attacks were tried."""
    strict = Policy(thresholds=(), allow=("no-leak",))
    alone = {"verdict": "inconclusive", "reason": "No matching attack was tried: add lamp."}
    checks = judge(strict, "", summary_of(verdict=alone))
    assert [(check.key, check.outcome) for check in checks] == [
        ("verdict.dager", "pass"),
        ("verdict", "inconclusive"),
    ]
    assert "add lamp" in checks[1].why
    (_, before) = judge(strict, "", summary_of())
    assert before.outcome == "inconclusive" and "earlier version" in before.why
    assert outcome(asked("leakage", "bag_f1", "dager", max=0.5), summary_of()) == "pass"


def test_a_cell_without_results_never_passes() -> None:
    checks = judge(asked("utility", "accuracy", min=0), "a", summary_of())
    checks += judge(asked("utility", "accuracy", min=0), "b", "it is not finished")
    assert [(check.cell, check.outcome) for check in checks] == [
        ("a", "pass"),
        ("b", "inconclusive"),
    ]
    assert overall(checks) == "inconclusive"
    assert overall([]) == "inconclusive"


EVIL = "</testcase><x> | `a` \x00\x1b[31m \u202e ]]> & @team\nnew"


def checks() -> list[Check]:
    policy = asked("leakage", "bag_f1", "dager", max=0.2)
    some = judge(policy, "x=1", summary_of()) + judge(policy, "x=2", EVIL)
    return some + judge(asked("utility", "accuracy", min=0.1), "x=3", summary_of())


def test_junit_counts_and_survives_any_text() -> None:
    root = ElementTree.fromstring(as_junit(checks()))
    assert root.tag == "testsuites"
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("3", "1", "1")
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"x=1", "x=2", "x=3"}
    case = suites["x=1"][0]
    assert case.get("name") == "leakage.dager.bag_f1"
    assert "upper end 0.3 is above the 0.2 allowed" in str(case[0].get("message"))
    assert "</testcase><x>" in str(suites["x=2"][0][0].get("message"))
    assert case[0].tag == "failure" and suites["x=2"][0][0].tag == "error"
    assert len(suites["x=3"][0]) == 0


def test_markdown_keeps_its_table() -> None:
    text = as_markdown(checks())
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 4
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
    assert "<x>" not in text and "@team" not in text and "\x1b" not in text


def test_text_says_the_worst_first() -> None:
    lines = as_text(checks()).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["fail", "inconclusive", "pass"]
    assert lines[-1].startswith("The gate is closed")
    assert "\x1b" not in as_text(checks())


def test_json_is_json_also_for_infinity() -> None:
    some = judge(
        asked("guarantee", "epsilon", max=8), "", summary_of(guarantee={"epsilon": float("inf")})
    )
    text = json.dumps(as_dict(some), allow_nan=False)
    assert json.loads(text)["outcome"] == "fail"
    assert json.loads(text)["checks"][0]["figure"]["mean"] == "inf"


@pytest.mark.parametrize(("guesses", "expected"), [(2, "pass"), (None, "inconclusive")])
def test_rouge_of_before_words_of_any_script_passes_nothing(
    guesses: int | None, expected: str
) -> None:
    """A run from before has 0.0 for Russian that was read; its entries count no guesses."""
    spread = {"mean": 0.0, "low": 0.0, "high": 10.7}
    summary = summary_of(
        attacks=[{**ENTRY, "guesses": guesses}],
        leakage={"dager": {"rouge1": spread, "bag_f1": {"mean": 0.1, "low": 0.0, "high": 0.2}}},
    )
    assert outcome(asked("leakage", "rouge1", "dager", max=20), summary) == expected
    assert outcome(asked("leakage", "bag_f1", "dager", max=0.3), summary) == "pass"
