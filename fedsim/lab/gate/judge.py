"""Compare what was found with what is allowed: a figure that is not there is never a pass."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fedsim.lab.gate.policy import Policy, Threshold, span
from fedsim.lab.store.figures import PRECISION, ROUGES, Interval
from fedsim.lab.store.summary import Summary

ROUNDING = 1e-6  # of a mean
Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing the policy asks, of one run: ``why`` is a whole sentence."""

    cell: str  # "" for a run that is no cell of a sweep
    key: str
    outcome: Outcome
    why: str
    figure: Interval | None = None  # None: there is none


def judge(policy: Policy, cell: str, results: Summary | str) -> list[Check]:
    """Return every check of one run, in the policy's order, the verdicts last.

    Args:
        policy: what is allowed.
        cell: the run's name in its sweep, or "".
        results: its summary, or why there is none.
    """
    if isinstance(results, str):
        why = f"This run has no results: {results}."
        return [Check(cell=cell, key="run", outcome="inconclusive", why=why)]
    checks = [_compared(cell, threshold, results) for threshold in policy.thresholds]
    return [*checks, *_verdicts(policy, cell, results)]


def overall(checks: Sequence[Check]) -> Outcome:
    """Return the gate's outcome: one failure fails it, and nothing less than all passes it."""
    outcomes = {check.outcome for check in checks}
    if "fail" in outcomes:
        return "fail"
    return "pass" if outcomes == {"pass"} else "inconclusive"


def _compared(cell: str, threshold: Threshold, summary: Summary) -> Check:
    figure = _figure(threshold, summary)
    if isinstance(figure, str):
        return Check(cell=cell, key=threshold.key, outcome="inconclusive", why=figure)
    outcome, why = _against(threshold, figure)
    if threshold.section == "leakage":
        if summary.failures:  # nothing of theirs was sent, so it is no reason to close the gate
            why = f"{why} Failures of clients, in no figure: {len(summary.failures)}."
        doubt = (
            _doubt(threshold.attack, summary)
            or _outdated(threshold, summary)
            or _unsaid(threshold, figure, summary)
        )
        if outcome == "pass" and doubt:
            # A broken attack reads nothing, and nothing is below every maximum.
            outcome, why = "inconclusive", f"{why} But {doubt}."
    return Check(cell=cell, key=threshold.key, outcome=outcome, why=why, figure=figure)


def _doubt(attack: str, summary: Summary) -> str:
    """Say why low figures of ``attack`` prove nothing; "" where they do."""
    judged = summary.verdicts.get(attack)
    updates = [entry for entry in summary.attacks if entry.attack == attack]
    errors = sum(entry.error is not None for entry in updates)
    if judged is None:
        return "the attack has no verdict"
    if judged.verdict == "inconclusive":
        return "the attack's own verdict is inconclusive"
    if not updates:
        return "no update is noted that the attack was run on"
    return f"the attack could not run on {errors} of {len(updates)} updates" if errors else ""


def _outdated(threshold: Threshold, summary: Summary) -> str:
    """Say that ROUGE was counted when only words in a to z were words; "" where it was not."""
    entries = [entry for entry in summary.attacks if entry.attack == threshold.attack]
    metric = threshold.metric.removesuffix("_but_last")
    if metric not in ROUGES or all(entry.guesses is not None for entry in entries):
        return ""
    return (
        f"{threshold.metric} was scored by an earlier version, which knew words in a to z alone; "
        "attack the run again, or hold exact_match or bag_f1 instead"
    )


def _unsaid(threshold: Threshold, figure: Interval, summary: Summary) -> str:
    """Say that a metric would allow too much if the texts of which it says nothing were read."""
    judged = summary.verdicts[threshold.attack]
    count = judged.silent.get(threshold.metric, 0)
    if not count or threshold.max is None:
        return ""
    most = figure.high + span(threshold.metric)[1] * count / max(1, judged.samples)
    if most <= threshold.max:
        return ""
    return (
        f"{threshold.metric} says nothing of {count} of {judged.samples} texts, which have too few "
        "words; hold exact_match or bag_f1 instead"
    )


def _lacks(threshold: Threshold, summary: Summary) -> str:
    """Say why a metric is not there, where that is known."""
    judged = summary.verdicts.get(threshold.attack)
    if threshold.metric in PRECISION and judged and judged.samples:
        return ": it made no guess"
    if judged and judged.samples and judged.silent.get(threshold.metric) == judged.samples:
        return ": no text has a word; hold exact_match or bag_f1 instead"
    return ""


def _figure(threshold: Threshold, summary: Summary) -> Interval | str:
    """Return the figure that ``threshold`` is about, or the sentence that says why there is none.

    A guarantee has no interval, nor has a utility measured once: both ends are the value.
    """
    metric = threshold.metric
    if threshold.section == "leakage":
        if threshold.attack not in summary.leakage:
            return f"The attack {threshold.attack} was not run."
        if metric not in summary.leakage[threshold.attack]:
            return f"{threshold.attack} has no {metric} in this run{_lacks(threshold, summary)}."
        figure = summary.leakage[threshold.attack][metric]
    elif threshold.section == "utility":
        figures = summary.utility.figures() if summary.utility else {}
        if metric not in figures:
            there = f"; there is {', '.join(sorted(figures))}" if figures else ""
            return f"No {metric} was measured in this run{there}."
        figure = Interval(figures[metric], figures[metric], figures[metric])
    else:
        value = (summary.guarantee or {}).get(metric)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"This run has no guarantee, so no {metric}."
        figure = Interval(float(value), float(value), float(value))
    if any(math.isnan(end) for end in (figure.mean, figure.low, figure.high)):
        return f"{metric} is not a number in this run."
    bottom, top = span(metric)
    ends = min(figure.mean, figure.low), max(figure.mean, figure.high)
    if figure.low > figure.high or ends[0] < bottom - ROUNDING or ends[1] > top + ROUNDING:
        return f"{metric} is {_show(figure)} in this run: no {metric} can be that."
    return figure


def _against(threshold: Threshold, figure: Interval) -> tuple[Outcome, str]:
    single = figure.low == figure.high
    it, most, least = threshold.metric, threshold.max, threshold.min
    if most is not None and figure.high > most:
        end = "it" if single else f"the upper end {figure.high:.4g}"
        return "fail", f"{it} is {_show(figure)}: {end} is above the {most:g} allowed."
    if least is not None and figure.low < least:
        end = "it" if single else f"the lower end {figure.low:.4g}"
        return "fail", f"{it} is {_show(figure)}: {end} is below the {least:g} wanted."
    limits = [f"at most {most:g}"] if most is not None else []
    limits += [f"at least {least:g}"] if least is not None else []
    return "pass", f"{it} is {_show(figure)}, {' and '.join(limits)} as wanted."


def _show(figure: Interval) -> str:
    if figure.low == figure.high:
        return f"{figure.mean:.4g}"
    return f"{figure.mean:.4g} ({figure.low:.4g} to {figure.high:.4g})"


def _verdicts(policy: Policy, cell: str, summary: Summary) -> Iterator[Check]:
    """Yield a check for each attack's verdict: inconclusive never passes, asked for or not.

    The run's own comes last, where verdicts are asked for: one attack's silence earns none.
    """
    if policy.allow is not None and not summary.verdicts:
        why = "No attack was run, so there is no verdict."
        yield Check(cell=cell, key="verdict", outcome="inconclusive", why=why)
    for attack, judged in summary.verdicts.items():
        if judged.verdict == "inconclusive":
            outcome: Outcome = "inconclusive"
        elif policy.allow is None:
            continue
        else:
            outcome = "pass" if judged.verdict in policy.allow else "fail"
        why = f"The verdict is {judged.verdict}. {judged.reason}".strip()
        yield Check(cell=cell, key=f"verdict.{attack}", outcome=outcome, why=why)
    if policy.allow is not None and summary.verdicts:
        whole = summary.overall
        outcome = "pass" if whole.verdict in policy.allow else "fail"
        if whole.verdict == "inconclusive":
            outcome = "inconclusive"
        why = f"The run's verdict is {whole.verdict}. {whole.reason}".strip()
        yield Check(cell=cell, key="verdict", outcome=outcome, why=why)
