"""What was in the batches, in no order: what attacks said of whole batches."""

from collections.abc import Sequence

from fedsim.lab.report.page import PageSection, Table
from fedsim.lab.report.words import percent
from fedsim.lab.store.figures import COUNTED, COUNTS
from fedsim.lab.store.records import whose
from fedsim.lab.store.summary import Entry, Summary

TITLE = "What was in the batches, in no order"
WORDS = (
    "An attack of this kind reads no text: it says which tokens are in a whole batch (types: each "
    "once; tokens: as often as they are there), or which labels. Precision is the share of what it "
    "says that is there, recall the share of what is there that it says. Chance is the F1 of as "
    "many unrelated sentences; of labels, of as many that are each as likely."
)


def counted_section(summary: Summary) -> PageSection:
    """Return the section on whole batches; empty where no attack spoke of them."""
    whole = [entry for entry in summary.attacks if entry.reads != "texts"]
    if not whole:
        return PageSection(anchor="counted", title=TITLE)
    return PageSection(anchor="counted", title=TITLE, words=[WORDS], tables=[counted_table(whole)])


def counted_table(entries: Sequence[Entry]) -> Table:
    """Return what was said of each update's batch."""
    controls = ("no_gradient", "other_update", "positive")
    return Table(
        name="counted",
        caption="Update by update",
        columns=["round", "client", "attack", "verdict", "says", "precision", "recall", "F1",
                 "F1 by chance", "another update's", "own batch's", "seconds"],
        rows=[
            [entry.round, whose(entry), entry.attack, entry.verdict, entry.reads]
            + [entry.metrics.get(name) for name in COUNTS]
            + [entry.controls.get(name, {}).get(COUNTED) for name in controls]
            + [entry.seconds]
            for entry in entries
        ],
    )  # fmt: skip


def counted_headline(summary: Summary) -> str:
    """Return the sentence on the attack that said most of whole batches; "" where none did."""
    scores = {k: figures[COUNTED] for k, figures in summary.leakage.items() if COUNTED in figures}
    if not scores:
        return ""
    name = max(scores, key=lambda attack: scores[attack].mean)
    found = percent(summary.leakage[name]["counted_recall"].mean)
    told = f"{name} says {found} of what is in a batch, in no order"
    verdict = summary.verdicts[name].verdict
    if verdict == "leak":
        return f"It leaks what is there: {told}."
    if verdict == "no-leak":
        return f"Nothing was counted beyond chance: {told}."
    return f"Inconclusive: {told}."
