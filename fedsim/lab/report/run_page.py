"""A run's page."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import tomli_w

from fedsim.errors import MalformedMessage
from fedsim.files import read_json
from fedsim.lab.report import evidence, words
from fedsim.lab.report.evidence import Row
from fedsim.lab.report.page import Figure, Page, Section, Table
from fedsim.lab.report.timeline import timeline, utility_plot
from fedsim.lab.results import Entry, Summary, read_results
from fedsim.lab.rundir import RunDirectory
from fedsim.lab.verdict import VERDICT_METRIC

FOLD = 24  # rows of a table that stand open


def run_page(run: RunDirectory, *, redact: bool) -> Page:
    """Return the report of a finished run."""
    summary = read_results(run.root)
    config = run.config()
    rows = evidence.read_samples(run)
    guessed = run.rows("reconstructions.jsonl")
    top = strongest(summary)
    mine = [row for row in rows if row["attack"] == top]
    exact = sum(row["exact_match"] == 1.0 for row in mine)
    verdict = words.worst([one.verdict for one in summary.verdicts.values()])
    ordered = evidence.worst_first(rows)
    return Page(
        title=summary.name,
        kind="run",
        subtitle=f"{words.subtitle(config)}, seed {summary.seed}",
        verdict=verdict,
        headline=words.headline(verdict, top, exact, len(mine)),
        reasons=[(name, one.verdict, one.reason) for name, one in summary.verdicts.items()],
        figures=_figures(summary, top, exact, len(mine)),
        redacted=redact,
        files=[evidence.samples_file(ordered, redact=redact)],
        sections=[
            one
            for one in (
                Section(
                    anchor="what",
                    title="What was attacked, and what the attacker knew",
                    facts=words.facts(config, summary),
                ),
                _leakage(summary, rows, redact=redact),
                _texts(ordered, run, redact=redact),
                evidence.private_section(
                    [evidence.private(name, rows, guessed) for name in summary.verdicts]
                ),
                evidence.controls_section(
                    [evidence.controls(name, summary.attacks) for name in summary.verdicts]
                ),
                guarantee_section(summary),
                _utility(summary),
                _cost(run, summary),
                manifest_section(run),
            )
            if one.facts or one.plots or one.tables or one.samples or one.words or one.code
        ],
    )


def strongest(summary: Summary) -> str:
    """Return the attack that read most; "" where none was scored."""
    scored = {k: v[VERDICT_METRIC].mean for k, v in summary.leakage.items() if VERDICT_METRIC in v}
    return max(scored, key=lambda name: scored[name], default="")


def _figures(summary: Summary, top: str, exact: int, samples: int) -> list[Figure]:
    figures = []
    if top:
        whole, overlap = (summary.leakage[top][name] for name in ("exact_match", VERDICT_METRIC))
        figures.append(
            Figure(
                value=f"{exact} of {samples}",
                label="texts read word for word",
                note=f"{top}; 95 % interval {percent(whole.low)} to {percent(whole.high)}",
            )
        )
        chance = chance_of(top, summary.attacks)
        beside = "no control was run" if chance is None else f"unrelated sentences: {percent(chance)}"
        figures.append(Figure(value=percent(overlap.mean), label="of tokens read", note=beside))
    figures.append(_worth(summary))
    return figures


def percent(share: float) -> str:
    """Return a share as a percentage; only a whole 1 is 100 %, only a 0 is 0 %."""
    shown = 100 * share
    digits = 1 if 99 < shown < 100 or 0 < shown < 1 else 0
    return f"{shown:.{digits}f} %"


def chance_of(attack: str, entries: Sequence[Entry]) -> float | None:
    """Return the mean token overlap that the no-gradient control of ``attack`` reached."""
    found = [
        (one.controls["no_gradient"][VERDICT_METRIC], one.samples)
        for one in entries
        if one.attack == attack and VERDICT_METRIC in one.controls.get("no_gradient", {})
    ]
    if not found:
        return None
    return fmean([value for value, _ in found], weights=[count for _, count in found])


def _worth(summary: Summary) -> Figure:
    epsilon = (summary.guarantee or {}).get("epsilon")
    promise = f"ε = {epsilon:.3g}" if isinstance(epsilon, int | float) else "no privacy guarantee"
    used = summary.utility
    if used is None:
        return Figure(value="–", label="utility was not measured", note=promise)
    return Figure(
        value=f"{used.after:.3g}", label=used.metric, note=f"{used.before:.3g} untrained; {promise}"
    )


def _leakage(summary: Summary, rows: Sequence[Row], *, redact: bool) -> Section:
    plots = [
        timeline(name, mine)
        for name in summary.verdicts
        if (mine := [row for row in rows if row["attack"] == name])
    ]
    means = Table(
        name="leakage",
        caption="All updates together: means and 95 % intervals, clustered by update",
        columns=["attack", "metric", "mean", "low", "high"],
        rows=[
            [attack, metric, one.mean, one.low, one.high]
            for attack, figures in summary.leakage.items()
            for metric, one in figures.items()
        ],
    )
    updates = _updates(summary, redact=redact)
    long = len(updates.rows) > FOLD
    return Section(
        anchor="leakage",
        title="Leakage, round by round",
        words=[f"Note: {note}" for note in summary.notes if not redact],
        plots=plots,
        tables=[means] if long else [updates, means],
        folded=[updates] if long else [],
    )


def _updates(summary: Summary, *, redact: bool) -> Table:
    errors = not redact and any(one.error for one in summary.attacks)
    metrics = {
        "exact": "exact_match",
        "in place": "token_accuracy",
        "overlap": "bag_f1",
        "R-1": "rouge1",
        "R-2": "rouge2",
        "R-L": "rougeL",
    }
    return Table(
        name="updates",
        caption="Update by update; a failure counts as zero, chance is that of the overlap",
        columns=["round", "client", "attack", "verdict", "texts", *metrics, "chance", "seconds"]
        + ["error"] * errors,
        rows=[
            [one.round, one.client, one.attack, one.verdict, one.samples]
            + [one.metrics.get(name) for name in metrics.values()]
            + [one.controls.get("no_gradient", {}).get(VERDICT_METRIC), one.seconds]
            + [one.error] * errors
            for one in summary.attacks
        ],
    )


def _texts(ordered: Sequence[Row], run: RunDirectory, *, redact: bool) -> Section:
    samples = evidence.texts(ordered, run, redact=redact)
    left = len(ordered) - len(samples)
    notes = [
        "The texts were left out of this report; the figures are those of the whole run."
        if redact
        else "Marked: tokens that both texts have, in the same order. Struck out: tokens that the "
        "attack made up or misplaced."
    ]
    if left:
        notes.append(f"{left:,} more samples, less read than these, are in samples.csv.")
    return Section(
        anchor="texts",
        title="What the server read, the worst first",
        words=notes if samples else [],
        samples=samples,
    )


def guarantee_section(summary: Summary) -> Section:
    """Return what the defense promises, whatever an attack reads today."""
    said = summary.guarantee
    sentences = [] if said else ["No defense in this run gives a privacy guarantee."]
    facts = [(str(name), _said(value)) for name, value in (said or {}).items()]
    if summary.bound is not None:
        facts += [(f"bound: {name}", _said(v)) for name, v in _items(summary.bound)]
    if summary.wire is not None:
        facts += [(f"on the wire: {name}", _said(v)) for name, v in _items(summary.wire)]
    return Section(anchor="guarantee", title="Guarantee and bound", words=sentences, facts=facts)


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(k), v) for k, v in value.items()]
    if isinstance(value, list):
        return [(str(k), v) for k, v in enumerate(value, start=1)]
    return [("value", value)]


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list):
        return ", ".join(f"{name} {_said(one)}" for name, one in _items(value))
    return str(value)


def _utility(summary: Summary) -> Section:
    used = summary.utility
    if used is None:
        sentence = "It was not measured: data.evaluate is 0."
        return Section(anchor="utility", title="Utility", words=[sentence])
    more = {name: value for name, value in used.figures().items() if name != used.metric}
    return Section(
        anchor="utility",
        title="Utility",
        words=[f"{used.metric}: {used.before:.3f} before training, {used.after:.3f} after."],
        facts=[(name, _said(value)) for name, value in more.items()],
        plots=[utility_plot(used)] if len(used.per_round) > 1 else [],
    )


def _cost(run: RunDirectory, summary: Summary) -> Section:
    attacking: dict[str, float] = {}
    for one in summary.attacks:
        attacking[one.attack] = attacking.get(one.attack, 0.0) + one.seconds
    facts = [("All rounds", f"{summary.seconds:,.1f} s, attacks and their controls included")]
    facts += [(f"{name}, without controls", f"{value:,.1f} s") for name, value in attacking.items()]
    up = [path.stat().st_size for path in run.captures.glob("round=*/client=*/update.safetensors")]
    if summary.bytes_up is not None:
        facts.append(("Sent up", _said(summary.bytes_up)))
    if up:
        text = f"{fmean(up) / 1e6:,.2f} MB an update, {sum(up) / 1e6:,.1f} MB in all"
        facts.append(("Captured updates", text))
    if summary.failures:
        facts.append(("Clients that failed", str(len(summary.failures))))
    return Section(anchor="cost", title="Cost", facts=facts)


def manifest_section(run: RunDirectory) -> Section:
    """Return what it takes to run the same again."""
    try:
        manifest = read_json(run.root / "manifest.json")
    except MalformedMessage:
        manifest = None
    facts = []
    if isinstance(manifest, dict):
        versions = manifest.pop("versions", {})
        facts = [(str(name), _said(value)) for name, value in manifest.items()]
        facts.append(("versions", ", ".join(f"{k} {v}" for k, v in _items(versions) if v)))
    return Section(
        anchor="manifest",
        title="Manifest",
        words=[] if facts else ["manifest.json is missing or broken."],
        facts=facts,
        code=[("The config, resolved", tomli_w.dumps(run.config().as_toml()))],
    )
