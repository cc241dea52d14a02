"""What an attempt tells by itself, where there is no truth to score it against."""

from collections.abc import Sequence

from fedsim.lab.store.attempts import AttackRecord

UNKNOWN = "There is no truth to score against (--truth FILE names one)"
DOUBTS = {
    "cut": "the search ended at one of its limits",
    "saturated": "more distinct inputs than the width, or LoRA's rank, can tell apart",
    "blurred": "noise hides part of the inputs",
    "dropped": "more was found than the examples stated and left out (data.num_examples=0 keeps "
    "it, where a project counts mini-batches)",
}
"""Diagnostics, by what they begin with, that say why something was not read."""


def without_truth(attempts: Sequence[AttackRecord], looks: str = "") -> str:
    """Return what attempts on updates of unknown texts read, how sure that is, and why no more."""
    read = sum(len(attempt.sequences) for attempt in attempts)
    sure = sum(len(a.sequences) for a in attempts if a.diagnostics.get("best_effort") is False)
    errors = sorted({attempt.error for attempt in attempts if attempt.error})
    if read:
        held = "all of them as sure" if sure == read else f"{sure or 'none'} of them as sure"
        parts = [f"{read} {'text was' if read == 1 else 'texts were'} read, {held}"]
    else:
        parts = ["nothing was read"]
    parts += [
        why
        for name, why in DOUBTS.items()
        if any(_says(a.diagnostics, name) for a in attempts) and not (read and sure == read)
    ]
    if not read and any(attempt.diagnostics.get("unread") for attempt in attempts):
        parts.append("inputs stand out of the update that it could not read")
    parts += [f"the attack could not run: {error}" for error in errors[:1]]
    parts += [looks] if looks else []
    return f"{UNKNOWN}: {'; '.join(parts)}."


def _says(diagnostics: object, name: str) -> bool:
    assert isinstance(diagnostics, dict)
    return any(key.split("_")[0] == name and bool(told) for key, told in diagnostics.items())
