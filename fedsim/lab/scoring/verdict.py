"""Say whether an update leaks, and when the experiment cannot say.

A score proves a leak only above what can be had without the update (the negative controls), and
its absence means something only if the attack works where it should (the positive control). An
attack that reads a client's text and not the attacker's own has it from elsewhere than the update.
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
    positive_exact: bool = False  # it read a sample exactly, long enough not to be guessed
    positive_error: str = ""  # why the attack could not run on it
    positive_floor: float = 0.5  # the mean that it must reach, for its silence to say anything
    exact: int = 0  # samples read exactly, long enough not to be guessed
    samples: int = 0  # of so many
    exact_by_control: bool = False  # a negative control has such, too


def decide(evidence: Evidence) -> tuple[Verdict, str]:
    """Return the verdict and one sentence of reason.

    ``leak``: the score's lower end is above every negative control's upper end, or a sample was
    read exactly and none by a negative control: a mean over few samples must not hide it; and the
    positive control, where it was run, shows either, too.
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
    read = f"{evidence.exact} of {evidence.samples} samples were read exactly"
    above, alone = score.low > chance.high, evidence.exact and not evidence.exact_by_control
    if above or alone:
        finding = f"Token overlap is {_show(score)}, above {versus}"
        if not above:
            finding = f"{read}, none of them by a negative control"
        if positive is None or positive.low > chance.high or evidence.positive_exact:
            return "leak", f"{finding}."
        also = f", and {read}" if above and evidence.exact else ""
        return "inconclusive", f"{finding}{also}. But {_failed(evidence, positive)}"
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


def _failed(evidence: Evidence, positive: Interval) -> str:
    """Say why what was read is no proof: the attack does not read what it says it reads."""
    if evidence.positive_error:
        return (
            f"the attack could not run on its positive control: {evidence.positive_error}; "
            "look at what it read, and where it has that from."
        )
    return (
        f"the attack failed its own positive control, {_show(positive)}: it did not read the same "
        "off an undefended update, so it may have the text from elsewhere; look at how it works."
    )


def _show(interval: Interval) -> str:
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"
