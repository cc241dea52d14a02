"""The sections of a page that are no texts: personal data, controls, guarantee, utility, cost."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import tomli_w

from fedsim.captures import update_sizes
from fedsim.errors import MalformedMessage
from fedsim.files import read_json
from fedsim.lab.report.page import PageSection, Table
from fedsim.lab.report.personal_data import Recall, UpdateTexts, recalls
from fedsim.lab.report.plots.timeline import utility_plot
from fedsim.lab.report.words import CONTROLS, PRIVATE, percent
from fedsim.lab.run.secrecy import caveats
from fedsim.lab.store import layout
from fedsim.lab.store.attempts import AttackRecord
from fedsim.lab.store.figures import PRECISION
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import Sample
from fedsim.lab.store.summary import Entry, Summary

NOT_TRAINED = "These are attacks on what a run captured: the run's own report says what it learned."


def private_section(tables: Sequence[Table]) -> PageSection:
    """Return the section on personal data."""
    return PageSection(anchor="personal", title="Personal data", words=[PRIVATE], tables=tables)


def private_table(
    attack: str, runs: Sequence[tuple[Sequence[Sample], Sequence[AttackRecord]]]
) -> Table:
    """Return the recall of personal data by kind.

    Args:
        attack: whose.
        runs: of each its samples, and its attacked updates: with guesses that match no sample.
    """
    updates = [update for run in runs for update in _updates(attack, *run)]
    return Table(
        name=f"personal-data-{attack}",
        caption=f"{attack}: personal data in the clients' texts",
        columns=["kind", "in the texts", "read", "share read", "by chance", "put out", "invented"],
        rows=[_recall_row(recall) for recall in recalls(updates)],
    )


def _updates(
    attack: str, samples: Sequence[Sample], attempts: Sequence[AttackRecord]
) -> list[UpdateTexts]:
    truths: dict[tuple[int, int], list[str]] = {}
    for sample in samples:
        if sample.attack == attack:
            truths.setdefault((sample.round, sample.client), []).append(sample.truth)
    emitted = {
        (attempt.round, attempt.client): attempt.texts
        for attempt in attempts
        if attempt.attack == attack
    }
    return [
        UpdateTexts(client=place[1], truths=texts, guesses=emitted.get(place, []))
        for place, texts in truths.items()
    ]


def _recall_row(recall: Recall) -> list[Any]:
    there, chance = recall.there, recall.chance
    if not recall.countable:
        why = "no capitals, so they cannot be counted"
        return [f"{recall.kind} ({why})", *[None] * 6]
    return [
        recall.kind,
        there,
        recall.read,
        recall.read / there if there else None,
        chance / there if there and chance is not None else None,
        recall.emitted,
        recall.invented / recall.emitted if recall.emitted else None,
    ]


def controls_section(tables: Sequence[Table]) -> PageSection:
    """Return the section on controls."""
    return PageSection(anchor="controls", title="Controls", words=[CONTROLS], tables=tables)


def controls_table(attack: str, entries: Sequence[Entry]) -> Table:
    """Return each metric of ``attack`` beside its controls, means over the samples."""
    scored = [entry for entry in entries if entry.attack == attack and entry.samples]
    names = list(dict.fromkeys(name for entry in scored for name in entry.controls))
    metrics = dict.fromkeys(name for entry in scored for name in entry.metrics)  # tasks differ
    rows = [
        [
            metric,
            _mean(metric, scored, [entry.metrics for entry in scored]),
            *(_mean(metric, scored, [e.controls.get(name, {}) for e in scored]) for name in names),
        ]
        for metric in metrics
        if metric not in PRECISION  # of a control nobody counted the guesses
    ]
    return Table(
        name=f"controls-{attack}",
        caption=f"{attack}: scores beside its controls",
        columns=["metric", attack, *(name.replace("_", " ") for name in names)],
        rows=rows,
    )


def _mean(
    metric: str, entries: Sequence[Entry], figures: Sequence[Mapping[str, float]]
) -> float | None:
    """Return the mean over samples; a control of no_gradient has every metric but the last ones."""
    known = [
        (mine[metric], entry.count(metric))
        for entry, mine in zip(entries, figures, strict=True)
        if metric in mine
    ]
    if not any(count for _, count in known):
        return None
    return fmean([value for value, _ in known], weights=[count for _, count in known])


def guarantee_section(summary: Summary) -> PageSection:
    """Return what the defense promises, whatever an attack reads today."""
    said = summary.guarantee
    sentences = caveats(said) if said else ["No defense in this run gives a privacy guarantee."]
    facts = [(str(name), _said(value)) for name, value in (said or {}).items()]
    bounds = [
        entry.bound["exact_match"] for entry in summary.attacks if "exact_match" in entry.bound
    ]
    if bounds:
        text = f"{percent(fmean(bounds))} of the texts of an update, on average over updates"
        facts.append(("Any attack reads word for word at most", text))
    wire = dict(summary.wire)
    for defense in wire.pop("defenses", []):
        figures = {name: value for name, value in defense.items() if name != "defense"}
        facts.append((f"on the wire: {defense.get('defense')}", _said(figures)))
    facts += [(f"on the wire: {name}", _said(value)) for name, value in wire.items()]
    return PageSection(
        anchor="guarantee", title="Guarantee and bound", words=sentences, facts=facts
    )


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "; ".join(map(_said, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(inner)}" for name, inner in value.items())
    return str(value)


def utility_section(summary: Summary) -> PageSection:
    """Return how good the model became."""
    used = summary.utility
    if used is None:
        sentence = "It was not measured: data.evaluate is 0." if summary.rounds else NOT_TRAINED
        return PageSection(anchor="utility", title="Utility", words=[sentence])
    more = {name: value for name, value in used.figures().items() if name != used.metric}
    return PageSection(
        anchor="utility",
        title="Utility",
        words=[f"{used.metric}: {used.before:.3f} before training, {used.after:.3f} after."],
        facts=[(name, _said(value)) for name, value in more.items()],
        plots=[utility_plot(used)] if len(used.per_round) > 1 else [],
    )


def cost_section(run: RunDirectory, summary: Summary) -> PageSection:
    """Return what training and attacks took, and what went over the wire."""
    attacking: dict[str, float] = {}
    for entry in summary.attacks:
        attacking[entry.attack] = attacking.get(entry.attack, 0.0) + entry.seconds
    spent = f"{summary.seconds:,.1f} s, attacks and their controls included"
    facts = [("All rounds", spent)] if summary.rounds else []
    facts += [(f"{name}, without controls", f"{value:,.1f} s") for name, value in attacking.items()]
    up = update_sizes(run.captures)
    if "bytes_up" in summary.wire:
        text = f"{summary.wire['bytes_up'] / 1e6:,.3g} MB an update, as its defense encodes it"
        facts.append(("Sent up", text))
    if up:
        text = f"{fmean(up) / 1e6:,.2f} MB an update, {sum(up) / 1e6:,.1f} MB in all"
        facts.append(("Captured updates", text))
    if summary.failures:
        facts.append(("Clients that failed", str(len(summary.failures))))
    return PageSection(anchor="cost", title="Cost", facts=facts)


def manifest_section(run: RunDirectory) -> PageSection:
    """Return what it takes to run the same again."""
    return PageSection(
        anchor="manifest",
        title="Manifest",
        facts=manifest_facts(run),
        code=[("The config, resolved", tomli_w.dumps(run.config().as_toml()))],
    )


def manifest_facts(run: RunDirectory) -> list[tuple[str, str]]:
    """Return what manifest.json says; that it is broken is no reason to have no report."""
    try:
        manifest = read_json(run.root / layout.MANIFEST)
    except MalformedMessage:
        manifest = None
    if not isinstance(manifest, dict):
        return [(layout.MANIFEST, "missing or broken")]
    versions = manifest.pop("versions", {})
    manifest.pop("config", None)  # shown beside it, as the run has it
    facts = [(str(name), _said(value)) for name, value in manifest.items()]
    known = versions.items() if isinstance(versions, dict) else ()
    return [*facts, ("versions", ", ".join(f"{k} {v}" for k, v in known if v))]
