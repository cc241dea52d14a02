"""A sweep's page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from fedsim.errors import BadInput
from fedsim.files import read_lines
from fedsim.lab.config import Config, check
from fedsim.lab.grid import label
from fedsim.lab.report import evidence, words
from fedsim.lab.report.evidence import Row
from fedsim.lab.report.grids import frontier, heat_maps
from fedsim.lab.report.page import Figure, Page, Sample, Section, Table
from fedsim.lab.report.run_page import manifest_facts, percent
from fedsim.lab.report.settings import Ran, Setting, over_updates, together
from fedsim.lab.results import Cell, Sweep, read_cells, read_sweep
from fedsim.lab.rundir import RunDirectory
from fedsim.lab.verdict import VERDICT_METRIC

TEXTS = 60  # of all cells together


def sweep_page(directory: Path, *, redact: bool) -> Page:
    """Return the report of a sweep, as far as it has come."""
    sweep, cells = read_sweep(directory), read_cells(directory)
    axes = {
        key: [label(value) for value in values]
        for key, values in sweep.axes.items()
        if key != "seed"
    }
    ran = [_ran(cell, list(axes)) for cell in cells if cell.summary is not None]
    if not ran:
        raise BadInput(f"{str(directory)!r} holds a sweep none of whose cells is done")
    first = ran[0].cell.summary
    metric = first.utility.metric if first and first.utility else ""
    settings = together(ran, metric)
    verdict = words.worst([one.point.verdict for one in settings])
    samples = [
        {"cell": one.cell.name, **one.keys, "seed": one.cell.seed, **row}
        for one in ran
        for row in one.rows
    ]
    ordered = evidence.worst_first(samples)
    config = check(sweep.cells[0].config)
    return Page(
        title=sweep.name,
        kind="sweep",
        subtitle=_subtitle(config, axes, cells),
        verdict=verdict,
        headline=_headline(settings),
        reasons=_reasons(settings, cells),
        figures=_figures(settings, metric),
        redacted=redact,
        files=[evidence.samples_file(ordered, redact=redact)],
        sections=_sections(directory, sweep, config, axes, cells, ran, settings, metric, ordered,
                           redact=redact),
    )  # fmt: skip
