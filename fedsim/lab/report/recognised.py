"""Who was recognised: what attacks said of candidates."""

from collections.abc import Sequence

from fedsim.lab.report.page import PageSection, Table
from fedsim.lab.report.words import percent
from fedsim.lab.store.records import whose
from fedsim.lab.store.summary import Entry, Summary

WORDS = (
    "An attack on membership is shown texts, some of which the client trained on, and says of each "
    "whether it did. AUC is the share of pairs of a member and an outsider that it puts in order: "
    "one half is chance. Its own threshold calls some of the members members (tpr) and some of the "
    "outsiders (fpr). A twin is a member with one token changed. Beside them: texts of other "
    "clients of the round, which should look like outsiders, and the same members where the update "
    "is one of the attacker's own making, of other texts. Recognised texts were not read: whoever "
    "recognises them had them before."
)


def recognised_section(summary: Summary) -> PageSection:
    """Return the section on membership; empty where no attack was asked."""
    asked = [entry for entry in summary.attacks if entry.candidates]
    if not asked:
        return PageSection(anchor="recognised", title="Who was recognised")
    return PageSection(
        anchor="recognised",
        title="Who was recognised",
        words=[WORDS],
        tables=[recognised_table(asked)],
    )


def recognised_table(entries: Sequence[Entry]) -> Table:
    """Return what was said about each update's candidates."""
    metrics = ("auc", "tpr", "fpr", "tpr_at_1pct_fpr", "beats_twin")
    return Table(
        name="recognised",
        caption="Update by update; rates are shares of the candidates of a kind",
        columns=["round", "client", "attack", "verdict", "candidates", "AUC", "members called",
                 "outsiders called", "at 1 % of outsiders", "beats its twin",
                 "other clients' called", "of another update", "own members called",
                 "seconds"],
        rows=[
            [entry.round, whose(entry), entry.attack, entry.verdict, entry.candidates]
            + [entry.metrics.get(name) for name in metrics]
            + [entry.controls.get(name, {}).get("tpr")
               for name in ("other_update", "own_update", "positive")]
            + [entry.seconds]
            for entry in entries
        ],
    )  # fmt: skip


def recognised_headline(summary: Summary) -> str:
    """Return the sentence on members, by the attack that recognised most; "" where none did."""
    rates = {
        name: figures["tpr"]
        for name, figures in summary.leakage.items()
        if "tpr" in figures and "fpr" in figures
    }
    if not rates:
        return ""
    name = max(rates, key=lambda attack: rates[attack].mean)
    wrong, verdict = summary.leakage[name]["fpr"].mean, summary.verdicts[name].verdict
    told = (
        f"{name} recognises {percent(rates[name].mean)} of the texts that were trained on, and "
        f"takes {percent(wrong)} of others for such"
    )
    if verdict == "leak":
        return f"It leaks who took part: {told}."
    if verdict == "no-leak":
        return f"No member was recognised beyond chance: {told}."
    return f"Inconclusive: {told}."
