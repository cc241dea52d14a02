"""A sweep's page."""

import shlex
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from fedsim.errors import BadInput
from fedsim.lab.config import check
from fedsim.lab.config.labels import label, short_names
from fedsim.lab.report import sections, texts, words
from fedsim.lab.report.about import attack_tables
from fedsim.lab.report.page import KeyFigure, Page, PageSection, ShownText, Table
from fedsim.lab.report.settings import Ran, SweptSetting, together
from fedsim.lab.report.sweep_sections import (
    Gathered,
    leakage_section,
    paper_sections,
    trade_section,
)
from fedsim.lab.report.words import percent
from fedsim.lab.run.secrecy import caveats
from fedsim.lab.scoring.again import samples_of_run
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import Sample
from fedsim.lab.store.sweep import RunResult, read_results, read_sweep
from fedsim.lab.sweep.directory import SweepDirectory

TEXTS = 60  # of all cells together


def sweep_page(directory: Path, *, redact: bool) -> Page:
    """Return the report of a sweep, as far as it has come.

    Raises:
        BadInput: a file is broken, or no cell is done.
    """
    it = _gather(directory)
    read = [(ran, sample) for ran in it.ran for sample in ran.samples]
    read.sort(key=lambda pair: texts.badness(pair[1]))
    rows = [{"cell": ran.cell.name, **sample.as_row()} for ran, sample in read]
    leaking = sum(setting.point.verdict == "leak" for setting in it.settings)
    return Page(
        title=it.sweep.name,
        kind="sweep",
        subtitle=_subtitle(it),
        verdict=words.worst([setting.point.verdict for setting in it.settings]),
        headline=_headline(it.settings, leaking),
        reasons=[],
        figures=_figures(it, leaking),
        redacted=redact,
        files=[texts.samples_file(rows, redact=redact)],
        sections=[
            *_unfinished(it, redact=redact),
            _what(it),
            leakage_section(it),
            trade_section(it),
            *paper_sections(it),
            texts.texts_section(
                _texts(it, read, redact=redact), len(read), redact=redact, once=True
            ),
            sections.private_section([_private(it, name) for name in it.attacks]),
            sections.controls_section([_controls(it, name) for name in it.attacks]),
            _guarantee(it),
            _cost(it),
            _manifest(it),
        ],
    )


def _gather(directory: Path) -> Gathered:
    sweep, cells = read_sweep(directory), read_results(directory)
    axes = {
        key: [label(value) for value in values]
        for key, values in sweep.axes.items()
        if key != "seed"
    }
    ran = [made for cell in cells if (made := _ran(cell, axes)) is not None]
    if not ran:
        raise BadInput(f"{str(directory)!r} holds a sweep none of whose cells is done")
    # A key that some plugins do not have has the value "-" there.
    axes = {
        key: [*values, *(["-"] if any(cell.keys[key] == "-" for cell in ran) else [])]
        for key, values in axes.items()
    }
    utilities = [cell.summary.utility for cell in ran]
    metric = next((utility.metric for utility in utilities if utility), "")
    return Gathered(
        sweep=sweep,
        config=check(sweep.cells[0].config),
        cells=cells,
        axes=axes,
        ran=ran,
        settings=together(ran, metric),
        metric=metric,
        recipe=SweepDirectory(directory).recipe(),
    )


def _ran(cell: RunResult, axes: Collection[str]) -> Ran | None:
    if cell.summary is None:
        return None
    run = RunDirectory(cell.root)
    return Ran(
        cell=cell,
        summary=cell.summary,
        samples=samples_of_run(run, cell.summary),
        attempts=run.attacked(cell.summary),
        keys={key: label(cell.settings.get(key)) for key in axes},
    )


def _subtitle(it: Gathered) -> str:
    seeds = {cell.seed for cell in it.cells}
    swept = ", ".join(f"{name} ({len(it.axes[key])})" for key, name in short_names(it.axes).items())
    return (
        f"{it.config.model.name} ({words.weights(it.config)}) · {it.config.data.name} · "
        f"swept: {swept or 'seeds'} · {len(it.cells)} cells, "
        f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}"
    )


def _headline(settings: Sequence[SweptSetting], leaking: int) -> str:
    count = len(settings)
    unsure = sum(setting.point.verdict == "inconclusive" for setting in settings)
    tail = f"; {unsure} inconclusive" if unsure else ""
    if leaking:
        return f"{leaking} of {count} settings leak{tail}."
    return f"No leak was found in {count - unsure} of {count} settings{tail}."


def _figures(it: Gathered, leaking: int) -> list[KeyFigure]:
    scored = [setting for setting in it.settings if setting.point.leakage is not None]
    figures = [KeyFigure(value=f"{leaking} of {len(it.settings)}", label="settings leak", note="")]
    for word, choose in (("most", max), ("least", min)):
        if scored:
            setting = choose(scored, key=_overlap)
            figures.append(
                KeyFigure(
                    value=percent(_overlap(setting)),
                    label=f"of tokens read at {word}",
                    note=setting.point.label,
                )
            )
    return figures


def _overlap(setting: SweptSetting) -> float:
    assert setting.point.leakage is not None
    return setting.point.leakage.mean


def _unfinished(it: Gathered, *, redact: bool) -> list[PageSection]:
    left = [cell for cell in it.cells if cell.summary is None]
    if not left:
        return []
    table = Table(
        name="cells-without-results",
        caption="Cells without results",
        columns=["cell", "why"],
        rows=[[cell.name, "left out" if redact else cell.error] for cell in left],
    )
    sentence = (
        f"This report is partial: {len(left)} of {len(it.cells)} cells failed or are not finished. "
        "Nothing below speaks of them."
    )
    return [PageSection(anchor="partial", title="Not all of it", words=[sentence], tables=[table])]


def _what(it: Gathered) -> PageSection:
    swept = [(key, ", ".join(values)) for key, values in it.axes.items()]
    facts = [
        *((f"Swept: {key}", values) for key, values in swept),
        *words.facts(it.config, it.ran[0].summary),
    ]
    return PageSection(
        anchor="what",
        title="What was attacked, and what the attacker knew",
        words=["The first cell's settings; what was swept differs from cell to cell."],
        facts=facts,
        tables=attack_tables(
            section.name for cell in it.sweep.cells for section in check(cell.config).attack
        ),
    )


def _texts(it: Gathered, read: Sequence[tuple[Ran, Sample]], *, redact: bool) -> list[ShownText]:
    """Return each text once, from the cell where most of it was read."""
    numbers = {
        ran.cell.name: setting.point.number for setting in it.settings for ran in setting.ran
    }
    first: dict[str, tuple[Ran, Sample]] = {}
    for ran, sample in read:
        first.setdefault(sample.truth, (ran, sample))
    shown = []
    for ran, sample in list(first.values())[:TEXTS]:
        place = f"setting {numbers[ran.cell.name]}, seed {ran.cell.seed}"
        for text in texts.shown_texts([sample], RunDirectory(ran.cell.root), redact=redact):
            shown.append(replace(text, place=f"{place}: {text.place}"))
    return shown


def _private(it: Gathered, attack: str) -> Table:
    return sections.private_table(attack, [(ran.samples, ran.attempts) for ran in it.ran])


def _controls(it: Gathered, attack: str) -> Table:
    return sections.controls_table(
        attack, [entry for ran in it.ran for entry in ran.summary.attacks]
    )


def _guarantee(it: Gathered) -> PageSection:
    promised = [setting for setting in it.settings if setting.epsilon is not None]
    said = [f"ε = {setting.epsilon:.4g} with {setting.point.label}." for setting in promised]
    said += dict.fromkeys(line for ran in it.ran for line in caveats(ran.summary.guarantee))
    return PageSection(
        anchor="guarantee",
        title="Guarantee and bound",
        words=said or ["No defense in this sweep gives a privacy guarantee."],
    )


def _cost(it: Gathered) -> PageSection:
    total = sum(cell.seconds for cell in it.sweep.cells)
    working = sum(cell.working for cell in it.sweep.cells)
    facts: list[tuple[str, str]] = [
        ("All cells", f"{total:,.1f} s, added up"),
        ("Of that, work", f"{working:,.1f} s: training, evaluation, attacks and their scores"),
    ]
    return PageSection(anchor="cost", title="Cost", facts=facts)


def _manifest(it: Gathered) -> PageSection:
    first = RunDirectory(it.ran[0].cell.root)
    words = shlex.join(it.sweep.words)
    said = it.sweep.commands or [f"fedsim sweep base.toml {words} (base.toml: as below)"]
    facts = [("command", line) for line in said]
    base: dict[str, Any] = dict(it.sweep.base)
    return PageSection(
        anchor="manifest",
        title="Manifest",
        facts=[*facts, *sections.manifest_facts(first)],
        code=[("The config before the grid", tomli_w.dumps(base))],
    )
