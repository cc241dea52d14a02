"""A sweep's page."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from fedsim.errors import BadInput
from fedsim.lab.config import check
from fedsim.lab.report import evidence, words
from fedsim.lab.report.about import attack_tables
from fedsim.lab.report.evidence import Row
from fedsim.lab.report.page import Figure, Page, Sample, Section, Table
from fedsim.lab.report.settings import Ran, Setting, together
from fedsim.lab.report.sweep_parts import (
    Gathered,
    leakage_section,
    paper_sections,
    trade_section,
)
from fedsim.lab.report.tail import manifest_facts
from fedsim.lab.report.words import percent
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.summary import read_cells, read_sweep
from fedsim.lab.sweep.directory import SweepDirectory
from fedsim.lab.sweep.grid import label, short_names

TEXTS = 60  # of all cells together


def sweep_page(directory: Path, *, redact: bool) -> Page:
    """Return the report of a sweep, as far as it has come.

    Raises:
        BadInput: a file is broken, or no cell is done.
    """
    it = _gather(directory)
    rows = evidence.worst_first(
        [{"cell": one.cell.name, **row} for one in it.ran for row in one.rows]
    )
    leaking = sum(one.point.verdict == "leak" for one in it.settings)
    return Page(
        title=it.sweep.name,
        kind="sweep",
        subtitle=_subtitle(it),
        verdict=words.worst([one.point.verdict for one in it.settings]),
        headline=_headline(it.settings, leaking),
        reasons=[],
        figures=_figures(it, leaking),
        redacted=redact,
        files=[evidence.samples_file(rows, redact=redact)],
        sections=[
            *_unfinished(it, redact=redact),
            _what(it),
            leakage_section(it),
            trade_section(it),
            *paper_sections(it),
            evidence.texts_section(_texts(it, rows, redact=redact), rows, redact=redact, once=True),
            evidence.private_section([_private(it, name) for name in it.attacks]),
            evidence.controls_section([_controls(it, name) for name in it.attacks]),
            _guarantee(it),
            _cost(it),
            _manifest(it),
        ],
    )


def _gather(directory: Path) -> Gathered:
    sweep, cells = read_sweep(directory), read_cells(directory)
    axes = {
        key: [label(value) for value in values]
        for key, values in sweep.axes.items()
        if key != "seed"
    }
    ran = [
        Ran(
            cell=cell,
            rows=evidence.read_samples(RunDirectory(cell.root)),
            keys={key: label(cell.settings.get(key)) for key in axes},
        )
        for cell in cells
        if cell.summary is not None
    ]
    if not ran:
        raise BadInput(f"{str(directory)!r} holds a sweep none of whose cells is done")
    # A key that some plugins do not have has the value "-" there.
    axes = {
        key: [*values, *(["-"] if any(one.keys[key] == "-" for one in ran) else [])]
        for key, values in axes.items()
    }
    used = [one.cell.summary.utility for one in ran if one.cell.summary]
    metric = next((one.metric for one in used if one), "")
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


def _subtitle(it: Gathered) -> str:
    seeds = {cell.seed for cell in it.cells}
    swept = ", ".join(f"{name} ({len(it.axes[key])})" for key, name in short_names(it.axes).items())
    return (
        f"{it.config.model.name} ({words.weights(it.config)}) · {it.config.data.name} · "
        f"swept: {swept or 'seeds'} · {len(it.cells)} cells, "
        f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}"
    )


def _headline(settings: Sequence[Setting], leaking: int) -> str:
    count = len(settings)
    unsure = sum(one.point.verdict == "inconclusive" for one in settings)
    tail = f"; {unsure} inconclusive" if unsure else ""
    if leaking:
        return f"{leaking} of {count} settings leak{tail}."
    return f"No leak was found in {count - unsure} of {count} settings{tail}."


def _figures(it: Gathered, leaking: int) -> list[Figure]:
    scored = [one for one in it.settings if one.point.leakage is not None]
    figures = [Figure(value=f"{leaking} of {len(it.settings)}", label="settings leak", note="")]
    for word, choose in (("most", max), ("least", min)):
        if scored:
            one = choose(scored, key=_overlap)
            figures.append(
                Figure(
                    value=percent(_overlap(one)),
                    label=f"of tokens read at {word}",
                    note=one.point.label,
                )
            )
    return figures


def _overlap(setting: Setting) -> float:
    assert setting.point.leakage is not None
    return setting.point.leakage.mean


def _unfinished(it: Gathered, *, redact: bool) -> list[Section]:
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
    return [Section(anchor="partial", title="Not all of it", words=[sentence], tables=[table])]


def _what(it: Gathered) -> Section:
    swept = [(key, ", ".join(values)) for key, values in it.axes.items()]
    first = it.ran[0].cell.summary
    assert first is not None
    facts = [
        (f"Swept: {key}", values) for key, values in swept
    ] + words.facts(it.config, first)  # fmt: skip
    return Section(
        anchor="what",
        title="What was attacked, and what the attacker knew",
        words=["The first cell's settings; what was swept differs from cell to cell."],
        facts=facts,
        tables=attack_tables(
            section.name for cell in it.sweep.cells for section in check(cell.config).attack
        ),
    )


def _texts(it: Gathered, rows: Sequence[Row], *, redact: bool) -> list[Sample]:
    """Return each text once, from the cell where most of it was read."""
    places = {
        one.cell.name: (f"setting {setting.point.number}, seed {one.cell.seed}", one.cell.root)
        for setting in it.settings
        for one in setting.ran
    }
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["truth"], row)
    samples = []
    for row in list(first.values())[:TEXTS]:
        place, root = places[row["cell"]]
        for sample in evidence.texts([row], RunDirectory(root), redact=redact):
            samples.append(replace(sample, place=f"{place}: {sample.place}"))
    return samples


def _private(it: Gathered, attack: str) -> Table:
    rows, guessed = [], []
    for one in it.ran:  # a client of one cell is another client than that of another
        rows += [{**row, "round": (one.cell.name, row["round"])} for row in one.rows]
        lines = RunDirectory(one.cell.root).rows("reconstructions.jsonl")
        guessed += [{**row, "round": (one.cell.name, row["round"])} for row in lines]
    return evidence.private(attack, rows, guessed)


def _controls(it: Gathered, attack: str) -> Table:
    summaries = [one.cell.summary for one in it.ran if one.cell.summary]
    return evidence.controls(attack, [entry for one in summaries for entry in one.attacks])


def _guarantee(it: Gathered) -> Section:
    promised = [one for one in it.settings if one.epsilon is not None]
    said = [f"ε = {one.epsilon:.4g} with {one.point.label}." for one in promised]
    return Section(
        anchor="guarantee",
        title="Guarantee and bound",
        words=said or ["No defense in this sweep gives a privacy guarantee."],
    )


def _cost(it: Gathered) -> Section:
    total = sum(one.seconds for one in it.sweep.cells)
    working = sum(one.working for one in it.sweep.cells)
    facts: list[tuple[str, str]] = [
        ("All cells", f"{total:,.1f} s, added up"),
        ("Of that, work", f"{working:,.1f} s: training, evaluation, attacks and their scores"),
    ]
    return Section(anchor="cost", title="Cost", facts=facts)


def _manifest(it: Gathered) -> Section:
    first = RunDirectory(it.ran[0].cell.root)
    facts = [("command", f"fedsim sweep CONFIG {' '.join(it.sweep.words)}")]
    base: dict[str, Any] = dict(it.sweep.base)
    return Section(
        anchor="manifest",
        title="Manifest",
        facts=[*facts, *manifest_facts(first)],
        code=[("The config before the grid", tomli_w.dumps(base))],
    )
