"""A sweep's own sections: where it leaks, what it costs to leak less, a paper's figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fedsim.lab.config import Config
from fedsim.lab.config.labels import label, short_names
from fedsim.lab.config.recipes import Recipe
from fedsim.lab.report.page import PageSection, Table
from fedsim.lab.report.plots.canvas import Plot
from fedsim.lab.report.plots.grids import heat_maps
from fedsim.lab.report.plots.trade import frontier
from fedsim.lab.report.settings import Ran, SweptSetting, over_updates
from fedsim.lab.store.figures import VERDICT_METRIC
from fedsim.lab.store.sweep import RunResult, SweepRecord
from fedsim.lab.sweep.grid import column

READER = "read by"  # beside a single swept key; no key is called so


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What a sweep's page is made from; ``axes``: swept keys and their values as text, no seed."""

    sweep: SweepRecord
    config: Config  # of the first cell
    cells: Sequence[RunResult]
    axes: Mapping[str, Sequence[str]]
    ran: Sequence[Ran]
    settings: Sequence[SweptSetting]
    metric: str  # of the utility; "" where none was measured
    recipe: Recipe | None

    @property
    def attacks(self) -> list[str]:
        """The attacks that were scored, in the order in which they occur."""
        return list(dict.fromkeys(sample.attack for ran in self.ran for sample in ran.samples))


def leakage_section(it: Gathered) -> PageSection:
    """Return the heat maps of every attack."""
    return PageSection(
        anchor="leakage",
        title="Where it leaks",
        words=["Each cell is a run of its own: fedsim report DIR/cells/NAME shows it, over time."],
        plots=[plot for name in it.attacks for plot in _maps(it, name)],
    )


def _maps(it: Gathered, attack: str) -> list[Plot]:
    """Return the heat maps of one attack; a single swept key stands beside the attack's name."""
    axes = it.axes if len(it.axes) > 1 else {READER: [attack], **it.axes}
    cells: list[tuple[Mapping[str, str], float | None]] = []
    for ran in it.ran:
        if ran.of(attack):
            keys = {READER: attack, **ran.keys}
            cells.append((keys, over_updates([ran], attack, VERDICT_METRIC).mean))
    for cell in it.cells:
        if cell.summary is None:
            keys = {key: label(cell.settings.get(key)) for key in it.axes}
            cells.append(({READER: attack, **keys}, None))
    return heat_maps(attack, axes, cells)


def trade_section(it: Gathered) -> PageSection:
    """Return utility against leakage, and every setting."""
    points = [setting.point for setting in it.settings]
    shown = any(point.utility and point.leakage for point in points)
    several = len({cell.seed for cell in it.cells}) > 1
    note = (
        "Leakage intervals: 95 %, over updates. "
        + ("Utility intervals: Student's t over the seeds." if several else
           "With one seed, a utility has no interval.")
    )  # fmt: skip
    return PageSection(
        anchor="frontier",
        title="What it costs to leak less",
        words=[note],
        plots=[frontier(points, it.metric)] if shown else [],
        tables=[_settings_table(it)],
    )


def _settings_table(it: Gathered) -> Table:
    after = [
        *("verdict", "attack", "overlap", "low", "high", "chance", "exact", "precision"),
        *(it.metric or "utility", "low", "high", "epsilon", "seconds a run"),
    ]
    names = short_names(it.axes, taken=after)
    rows = []
    for setting in it.settings:
        point = setting.point
        spread = [None] * 3 if point.leakage is None else list(vars(point.leakage).values())
        worth = [None] * 3 if point.utility is None else list(vars(point.utility).values())
        if len(setting.ran) < 2:
            worth[1:] = [None, None]
        rows.append(
            [
                *(point.number, *point.keys.values(), point.verdict, setting.attack or None),
                *(*spread, setting.chance, setting.exact, setting.precision),
                *(*worth, setting.epsilon),
                fmean(ran.summary.seconds for ran in setting.ran),
            ]
        )
    return Table(
        name="settings",
        caption="Every setting, its strongest attack",
        columns=["no.", *map(column, names.values()), *after],
        rows=rows,
    )


def paper_sections(it: Gathered) -> list[PageSection]:
    """Return the paper's figures beside ours, where the sweep is a recipe's."""
    recipe = it.recipe
    if recipe is None:
        return []
    rows = []
    configs = {cell.name: cell.config for cell in it.sweep.cells}
    for ran in it.ran:
        row = recipe.beside(configs[ran.cell.name])
        ours = ran.summary.leakage.get(recipe.attack, {})
        if row is not None:
            values: list[Any] = []
            for name, theirs in (("rouge1", row.rouge1), ("rouge2", row.rouge2)):
                mean = ours.get(name)
                spread = [None] * 3 if mean is None else [mean.mean, mean.low, mean.high]
                values += [theirs, *spread]
            settings = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in row.settings.items())
            rows.append([settings, ran.cell.seed, *values])
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
        PageSection(
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
