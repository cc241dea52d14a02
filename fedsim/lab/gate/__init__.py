"""The gate: a policy's thresholds against what a run or a sweep found."""

from fedsim.lab.gate.judge import Check, Outcome, judge, overall
from fedsim.lab.gate.output import as_dict, as_junit, as_markdown, as_text
from fedsim.lab.gate.policy import Policy, Threshold, read_policy, unnamed

__all__ = [
    "Check",
    "Outcome",
    "Policy",
    "Threshold",
    "as_dict",
    "as_junit",
    "as_markdown",
    "as_text",
    "judge",
    "overall",
    "read_policy",
    "unnamed",
]
