"""A run's page."""

from collections.abc import Sequence
from statistics import fmean

from fedsim.lab.report import sections, texts, words
from fedsim.lab.report.about import attack_tables
from fedsim.lab.report.counted import counted_headline, counted_section
from fedsim.lab.report.page import KeyFigure, Page, PageSection, Table
from fedsim.lab.report.plots.timeline import timeline
from fedsim.lab.report.recognised import recognised_headline, recognised_section
from fedsim.lab.report.words import percent
from fedsim.lab.scoring.again import samples_of_run
from fedsim.lab.store.figures import VERDICT_METRIC, Verdict
from fedsim.lab.store.quoting import without_errors
from fedsim.lab.store.records import whose
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import Sample
from fedsim.lab.store.summary import Entry, Summary, read_summary

FOLD = 24  # rows of a table that stand open
LEARNED = ("simulated_clients", "held_out_accuracy")  # what an attack that learns says of itself


def run_page(run: RunDirectory, *, redact: bool) -> Page:
    """Return the report of a finished run."""
    summary = read_summary(run.root)
    config = run.config()
    run.check()
    written = samples_of_run(run, summary)
    samples = sorted(written, key=texts.badness)
    attempts = run.attacked(summary)
    top = strongest(summary)
    mine = [sample for sample in samples if sample.attack == top]
    exact = sum(sample.exact for sample in mine)
    whole = summary.overall
    shown = texts.shown_texts(samples, run, redact=redact)
    parts = [
        PageSection(
            anchor="what",
            title="What was attacked, and what the attacker knew",
            facts=words.facts(config, summary),
            tables=attack_tables(section.name for section in config.attack),
        ),
        _leakage(summary, written, redact=redact),
        recognised_section(summary),
        counted_section(summary),
        texts.texts_section(shown, len(samples), redact=redact),
        sections.private_section(
            [sections.private_table(name, [(samples, attempts)]) for name in summary.verdicts]
        ),
        sections.controls_section(
            [sections.controls_table(name, summary.attacks) for name in summary.verdicts]
        ),
        sections.guarantee_section(summary),
        sections.utility_section(summary),
        sections.cost_section(run, summary),
        sections.manifest_section(run),
    ]
    return Page(
        title=summary.name,
        kind="run",
        subtitle=f"{words.subtitle(config)}, seed {summary.seed}",
        verdict=whole.verdict,
        headline=headline(summary, exact, len(mine)),
        reasons=_reasons(summary, redact=redact),
        figures=_figures(summary, top, exact, len(mine)),
        redacted=redact,
        files=[texts.samples_file([sample.as_row() for sample in samples], redact=redact)],
        sections=[part for part in parts if not part.empty],
    )


def headline(summary: Summary, exact: int, samples: int) -> str:
    """Return the run's verdict as a sentence, by the attack that it rests on.

    Args:
        summary: of the run.
        exact: how many texts the strongest attack read word for word.
        samples: of so many.
    """
    whole, top = summary.overall.verdict, strongest(summary)
    leaks = [name for name, judged in summary.verdicts.items() if judged.verdict == "leak"]
    if whole == "leak" and top not in leaks:  # what leaks is who took part, or what was there
        about = (recognised_headline(summary), counted_headline(summary))
        told = [sentence for sentence in about if sentence.startswith(words.LEAKS)]
        return told[0] if told else words.headline(whole, leaks[0], 0, 0)
    if whole == "inconclusive" and not top:
        _, _, told_of = (recognised_headline(summary) or counted_headline(summary)).partition(": ")
        if told_of:
            return f"Inconclusive: {told_of}"
    return words.headline(whole, top or next(iter(summary.verdicts), ""), exact, samples)


def _reasons(summary: Summary, *, redact: bool) -> list[tuple[str, Verdict, str]]:
    """Return each verdict with its reason, the run's first."""
    whole = summary.overall
    told = [("all attacks", whole.verdict, whole.reason)]
    told += [(name, one.verdict, one.reason) for name, one in summary.verdicts.items()]
    return [(name, v, without_errors(why) if redact else why) for name, v, why in told]


def strongest(summary: Summary) -> str:
    """Return the attack that read most; "" where none was scored."""
    scored = {k: v[VERDICT_METRIC].mean for k, v in summary.leakage.items() if VERDICT_METRIC in v}
    return max(scored, key=lambda name: scored[name], default="")


def _figures(summary: Summary, top: str, exact: int, samples: int) -> list[KeyFigure]:
    figures = []
    if top:
        said, overlap = [top], summary.leakage[top][VERDICT_METRIC]
        if whole := summary.leakage[top].get("exact_match"):
            said.append(f"95 % interval {percent(whole.low)} to {percent(whole.high)}")
        if right := summary.leakage[top].get("precision"):
            said.append(f"{percent(right.mean)} of its guesses are right")
        value = f"{exact} of {samples}"
        figures.append(
            KeyFigure(value=value, label="texts read word for word", note="; ".join(said))
        )
        chance = chance_of(top, summary.attacks)
        beside = f"unrelated sentences: {percent(chance)}" if chance is not None else "no control"
        figures.append(KeyFigure(value=percent(overlap.mean), label="of tokens read", note=beside))
    figures.append(_worth(summary))
    return figures


def chance_of(attack: str, entries: Sequence[Entry]) -> float | None:
    """Return the mean token overlap that the no-gradient control of ``attack`` reached."""
    known = [
        (entry.controls["no_gradient"][VERDICT_METRIC], entry.samples)
        for entry in entries
        if entry.attack == attack and VERDICT_METRIC in entry.controls.get("no_gradient", {})
    ]
    if not known:
        return None
    return fmean([value for value, _ in known], weights=[count for _, count in known])


def _worth(summary: Summary) -> KeyFigure:
    epsilon = summary.epsilon
    promise = "no privacy guarantee" if epsilon is None else f"ε = {epsilon:.3g}"
    used = summary.utility
    if used is None:
        return KeyFigure(value="–", label="utility was not measured", note=promise)
    return KeyFigure(
        value=f"{used.after:.3g}", label=used.metric, note=f"{used.before:.3g} untrained; {promise}"
    )


def _leakage(summary: Summary, samples: Sequence[Sample], *, redact: bool) -> PageSection:
    plots = [
        timeline(name, mine)
        for name in summary.verdicts
        if (mine := [sample for sample in samples if sample.attack == name])
    ]
    means = Table(
        name="leakage",
        caption="All updates together: means and 95 % intervals, clustered by update; "
        "precision is over guesses",
        columns=["attack", "metric", "mean", "low", "high"],
        rows=[
            [attack, metric, interval.mean, interval.low, interval.high]
            for attack, figures in summary.leakage.items()
            for metric, interval in figures.items()
        ],
    )
    updates = _updates(summary, redact=redact)
    long = len(updates.rows) > FOLD
    return PageSection(
        anchor="leakage",
        title="Leakage, round by round",
        words=[f"Note: {without_errors(note) if redact else note}" for note in summary.notes],
        plots=plots,
        tables=[means] if long else [updates, means],
        folded=[updates] if long else [],
    )


def _updates(summary: Summary, *, redact: bool) -> Table:
    errors = not redact and any(entry.error for entry in summary.attacks)
    bound = any("exact_match" in entry.bound for entry in summary.attacks)
    learned = any(LEARNED[0] in entry.diagnostics for entry in summary.attacks)
    metrics = {
        "exact": "exact_match",
        "precision": "precision",
        "in place": "token_accuracy",
        "overlap": "bag_f1",
        "R-1": "rouge1",
        "R-2": "rouge2",
        "R-L": "rougeL",
    }
    return Table(
        name="updates",
        caption="Update by update; a failure counts as zero, chance is that of the overlap, "
        "precision the share of the guesses that are right",
        columns=["round", "client", "attack", "verdict", "texts", "guesses", *metrics]
        + ["chance", "seconds"]
        + ["exact at most"] * bound
        + [name.replace("_", " ") for name in LEARNED] * learned
        + ["error"] * errors,
        rows=[
            [entry.round, whose(entry), entry.attack, entry.verdict, entry.samples, entry.guesses]
            + [entry.metrics.get(name) for name in metrics.values()]
            + [entry.controls.get("no_gradient", {}).get(VERDICT_METRIC), entry.seconds]
            + [entry.bound.get("exact_match")] * bound
            + [entry.diagnostics.get(name) for name in LEARNED] * learned
            + [entry.error] * errors
            for entry in summary.attacks
        ],
    )
