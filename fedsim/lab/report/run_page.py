"""A run's page."""

from collections.abc import Sequence
from statistics import fmean

from fedsim.lab.report import evidence, words
from fedsim.lab.report.about import attack_tables
from fedsim.lab.report.evidence import Row
from fedsim.lab.report.page import Figure, Page, Section, Table
from fedsim.lab.report.plots.timeline import timeline
from fedsim.lab.report.tail import (
    cost_section,
    guarantee_section,
    manifest_section,
    utility_section,
)
from fedsim.lab.report.words import percent
from fedsim.lab.scoring.verdict import VERDICT_METRIC
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import whose
from fedsim.lab.store.summary import Entry, Summary, read_results

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
        reasons=[
            (name, one.verdict, words.without_errors(one.reason) if redact else one.reason)
            for name, one in summary.verdicts.items()
        ],
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
                    tables=attack_tables(section.name for section in config.attack),
                ),
                _leakage(summary, rows, redact=redact),
                evidence.texts_section(
                    evidence.texts(ordered, run, redact=redact), ordered, redact=redact
                ),
                evidence.private_section(
                    [evidence.private(name, rows, guessed) for name in summary.verdicts]
                ),
                evidence.controls_section(
                    [evidence.controls(name, summary.attacks) for name in summary.verdicts]
                ),
                guarantee_section(summary),
                utility_section(summary),
                cost_section(run, summary),
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
        beside = f"unrelated sentences: {percent(chance)}" if chance is not None else "no control"
        figures.append(Figure(value=percent(overlap.mean), label="of tokens read", note=beside))
    figures.append(_worth(summary))
    return figures


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
        words=[f"Note: {words.without_errors(note) if redact else note}" for note in summary.notes],
        plots=plots,
        tables=[means] if long else [updates, means],
        folded=[updates] if long else [],
    )


def _updates(summary: Summary, *, redact: bool) -> Table:
    errors = not redact and any(one.error for one in summary.attacks)
    bound = any("exact_match" in one.bound for one in summary.attacks)
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
        + ["exact at most"] * bound
        + ["error"] * errors,
        rows=[
            [one.round, whose(vars(one)), one.attack, one.verdict, one.samples]
            + [one.metrics.get(name) for name in metrics.values()]
            + [one.controls.get("no_gradient", {}).get(VERDICT_METRIC), one.seconds]
            + [one.bound.get("exact_match")] * bound
            + [one.error] * errors
            for one in summary.attacks
        ],
    )
