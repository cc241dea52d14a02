"""Say whether an update leaks, and when the experiment cannot say.

A score proves a leak only above what can be had without the update (the negative controls), and
its absence means something only if the attack works where it should (the positive control).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedsim.lab.store.figures import Interval, Verdict


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a verdict rests on: intervals of ``VERDICT_METRIC``, fractions in [0, 1]."""

    score: Interval | None  # None: there was no truth to score against
    controls: Mapping[str, Interval]  # negative, by name: no_gradient, other_update
    positive: Interval | None  # the attack's own positive control; None: it was not run
    positive_floor: float = 0.5  # the mean that the positive control must reach
    exact: int = 0  # samples read exactly, long enough not to be guessed
    samples: int = 0  # of so many
    exact_by_control: bool = False  # a negative control has such, too


def decide(evidence: Evidence) -> tuple[Verdict, str]:
    """Return the verdict and one sentence of reason.

    ``leak``: the score's lower end is above every negative control's upper end, or a sample was
    read exactly and none by a negative control: a mean over few samples must not hide it.
    ``no-leak``: neither, and the positive control's lower end is above, with a mean of at least
    ``positive_floor``. ``inconclusive``: all else, or there is no score or no negative control.
    """
    score, positive = evidence.score, evidence.positive
    if score is None:
        return "inconclusive", "There is no truth to score against."
    if not evidence.controls:
        return "inconclusive", (
            f"Token overlap is {_show(score)}, but without negative controls "
            "nothing says what chance would give."
        )
    name, chance = max(evidence.controls.items(), key=lambda item: (item[1].high, item[0]))
    versus = f"the strongest negative control, {name}, {_show(chance)}"
    if score.low > chance.high:
        return "leak", f"Token overlap is {_show(score)}, above {versus}."
    read = f"{evidence.exact} of {evidence.samples} samples were read exactly"
    if evidence.exact and not evidence.exact_by_control:
        return "leak", f"{read}, none of them by a negative control."
    if evidence.exact:
        return "inconclusive", f"{read}, but so were some by a negative control."
    finding = f"Token overlap is {_show(score)}, not above {versus}"
    if positive is None:
        return "inconclusive", f"{finding}, and no positive control showed that the attack works."
    if not positive.low > chance.high:
        return "inconclusive", (
            f"{finding}, but neither is the positive control, {_show(positive)}: "
            "it failed, so the attack may just not work here."
        )
    if not positive.mean >= evidence.positive_floor:
        return "inconclusive", (
            f"{finding}, but the positive control failed: it reached {_show(positive)}, "
            f"less than the {evidence.positive_floor:.3f} wanted."
        )
    return "no-leak", f"{finding}, while the positive control reached {_show(positive)}."


def _show(interval: Interval) -> str:
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"
