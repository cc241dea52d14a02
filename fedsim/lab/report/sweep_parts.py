"""A sweep's own sections: where it leaks, what it costs to leak less, a paper's figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fedsim.lab.config import Config
from fedsim.lab.config.recipes import Recipe
from fedsim.lab.report.page import Section, Table
from fedsim.lab.report.plots.canvas import Plot
from fedsim.lab.report.plots.grids import heat_maps
from fedsim.lab.report.plots.trade import frontier
from fedsim.lab.report.settings import Ran, Setting, over_updates
from fedsim.lab.scoring.verdict import VERDICT_METRIC
from fedsim.lab.store.summary import Cell, Sweep
from fedsim.lab.sweep.grid import column, label, short_names

READER = "read by"  # beside a single swept key; no key is called so


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What a sweep's page is made from; ``axes``: swept keys and their values as text, no seed."""

    sweep: Sweep
    config: Config  # of the first cell
    cells: Sequence[Cell]
    axes: Mapping[str, Sequence[str]]
    ran: Sequence[Ran]
    settings: Sequence[Setting]
    metric: str  # of the utility; "" where none was measured
    recipe: Recipe | None

    @property
    def attacks(self) -> list[str]:
        """The attacks that were scored, in the order in which they occur."""
        return list(dict.fromkeys(row["attack"] for one in self.ran for row in one.rows))


def leakage_section(it: Gathered) -> Section:
    """Return the heat maps of every attack."""
    return Section(
        anchor="leakage",
        title="Where it leaks",
        words=["Each cell is a run of its own: fedsim report DIR/cells/NAME shows it, over time."],
        plots=[plot for name in it.attacks for plot in _maps(it, name)],
    )


def _maps(it: Gathered, attack: str) -> list[Plot]:
    """Return the heat maps of one attack; a single swept key stands beside the attack's name."""
    axes = it.axes if len(it.axes) > 1 else {READER: [attack], **it.axes}
    cells: list[tuple[Mapping[str, str], float | None]] = []
    for one in it.ran:
        if any(row["attack"] == attack for row in one.rows):
            keys = {READER: attack, **one.keys}
            cells.append((keys, over_updates([one], attack, VERDICT_METRIC).mean))
    for cell in it.cells:
        if cell.summary is None:
            keys = {key: label(cell.settings.get(key)) for key in it.axes}
            cells.append(({READER: attack, **keys}, None))
    return heat_maps(attack, axes, cells)


def trade_section(it: Gathered) -> Section:
    """Return utility against leakage, and every setting."""
    points = [one.point for one in it.settings]
    shown = any(one.utility and one.leakage for one in points)
    several = len({cell.seed for cell in it.cells}) > 1
    note = (
        "Leakage intervals: 95 %, over updates. "
        + ("Utility intervals: Student's t over the seeds." if several else
           "With one seed, a utility has no interval.")
    )  # fmt: skip
    return Section(
        anchor="frontier",
        title="What it costs to leak less",
        words=[note],
        plots=[frontier(points, it.metric)] if shown else [],
        tables=[_settings_table(it)],
    )


def _settings_table(it: Gathered) -> Table:
    after = [
        *("verdict", "attack", "overlap", "low", "high", "chance", "exact"),
        *(it.metric or "utility", "low", "high", "epsilon", "seconds a run"),
    ]
    names = short_names(it.axes, taken=after)
    rows = []
    for one in it.settings:
        point, summaries = one.point, [r.cell.summary for r in one.ran if r.cell.summary]
        spread = [None] * 3 if point.leakage is None else list(vars(point.leakage).values())
        worth = [None] * 3 if point.utility is None else list(vars(point.utility).values())
        if len(one.ran) < 2:
            worth[1:] = [None, None]
        rows.append(
            [
                *(point.number, *point.keys.values(), point.verdict, one.attack or None, *spread),
                *(one.chance, one.exact, *worth, one.epsilon),
                fmean(summary.seconds for summary in summaries),
            ]
        )
    return Table(
        name="settings",
        caption="Every setting, its strongest attack",
        columns=["no.", *map(column, names.values()), *after],
        rows=rows,
    )


def paper_sections(it: Gathered) -> list[Section]:
    """Return the paper's figures beside ours, where the sweep is a recipe's."""
    recipe = it.recipe
    if recipe is None:
        return []
    rows = []
    configs = {cell.name: cell.config for cell in it.sweep.cells}
    for one in it.ran:
        row = recipe.beside(configs[one.cell.name])
        ours = one.cell.summary.leakage.get(recipe.attack, {}) if one.cell.summary else {}
        if row is not None:
            values: list[Any] = []
            for name, theirs in (("rouge1", row.rouge1), ("rouge2", row.rouge2)):
                found = ours.get(name)
                spread = [None] * 3 if found is None else [found.mean, found.low, found.high]
                values += [theirs, *spread]
            settings = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in row.settings.items())
            rows.append([settings, one.cell.seed, *values])
    table = Table(
        name="paper",
        caption=f"{recipe.attack}: the paper's figures beside ours, ROUGE F x 100",
        columns=[
            *("setting", "seed", "R-1, paper", "R-1, ours", "low", "high"),
            *("R-2, paper", "R-2, ours", "low", "high"),
        ],
        rows=rows,
        digits=1,
    )
    return [
        Section(
            anchor="paper",
            title="Beside the paper",
            words=[
                f"{recipe.paper}, {recipe.table}.",
                f"The paper: {recipe.setup}",
                f"Here differs: {recipe.differs}",
            ],
            tables=[table],
        )
    ]
