"""What results may quote of clients' texts, or of what was read of them: an attack's own words."""

from dataclasses import replace

from fedsim.errors import LEFT_OUT
from fedsim.lab.store.summary import Entry, Summary
from fedsim.lab.store.sweep import RunResult

BROKEN = "could not run"  # what an attack's own words follow, in a sentence of ours


def without_errors(sentence: str) -> str:
    """Return ``sentence`` without an attack's own words: they might quote what it read."""
    head, broken, _ = sentence.partition(BROKEN)
    return f"{head}{broken}." if broken else sentence


def without_quotes(summary: Summary) -> Summary:
    """Return ``summary`` without the words of attacks that could not run: the figures stay."""
    judged = {
        name: one.model_copy(update={"reason": without_errors(one.reason)})
        for name, one in summary.verdicts.items()
    }
    whole = summary.verdict
    if whole is not None:
        whole = whole.model_copy(update={"reason": without_errors(whole.reason)})
    changed = {
        "attacks": [_unquoted(entry) for entry in summary.attacks],
        "verdicts": judged,
        "verdict": whole,
        "notes": [without_errors(note) for note in summary.notes],
    }
    return summary.model_copy(
        update={key: value for key, value in changed.items() if key in summary.model_fields_set}
    )


def _unquoted(entry: Entry) -> Entry:
    error = {"error": LEFT_OUT} if entry.error else {}
    return entry.model_copy(update={"reason": without_errors(entry.reason), **error})


def redacted_result(result: RunResult) -> RunResult:
    """Return a run's results without what may quote texts."""
    whole = result.summary
    return replace(
        result,
        summary=None if whole is None else without_quotes(whole),
        error=told(result.error, result.quotes, redact=True),
    )


def told(error: str | None, quotes: bool | None, *, redact: bool) -> str | None:
    """Return why a cell failed; not where that may quote texts (``quotes``; None: nobody knows)."""
    if error is None or not redact or quotes is False:
        return error
    return f"{LEFT_OUT} (it may quote texts: its cell.json has it)"
