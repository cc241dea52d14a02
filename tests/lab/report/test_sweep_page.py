"""A sweep's page: the heat map's means, the frontier, seeds together, a paper's figures."""

import csv
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import ttest_1samp

from fedsim.errors import BadInput
from fedsim.files import read_json, write_json
from fedsim.lab.cli import main
from fedsim.lab.report import write_report
from fedsim.lab.report.plots.canvas import NARROW, WIDE
from fedsim.lab.report.plots.grids import heat_maps
from fedsim.lab.report.plots.theme import LIGHT
from fedsim.lab.report.plots.trade import Point, _lanes, _unbeaten, frontier
from fedsim.lab.report.settings import over_seeds
from fedsim.lab.store.figures import Interval
from tests.lab.synthetic import cell, sweep_of, synthetic_run


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two defenses x two epochs x two seeds; one cell failed, one is not finished."""
    root = tmp_path_factory.mktemp("sweep")
    cells: list[dict[str, Any]] = []
    for defense in ("none", "topk"):
        for epochs in (1, 5):
            for seed in (1, 2):
                name = f"{defense}-{epochs}-{seed}"
                read = 1.0 if defense == "none" else 0.1
                run = synthetic_run(root / "cells" / name, rounds=1, batch=1, seed=seed, read=read)
                settings = {"defense": defense, "training.local_epochs": epochs, "seed": seed}
                config = run.config().as_toml()
                config["training"]["local_epochs"] = epochs
                cells.append(cell(name, settings, config))
    cells[-1] |= {"status": "failed", "error": "RunFailed: diverged"}
    cells[-2] |= {"status": "running"}
    axes = {"defense": ["none", "topk"], "training.local_epochs": [1, 5], "seed": [1, 2]}
    write_json(root / "sweep.json", sweep_of(axes, cells, words=["defense=none,topk"]))
    recipe = {
        "schema": 1, "attack": "dager", "paper": "A Paper", "table": "Table 2", "setup": "float64",
        "differs": "float32", "grid": ["defense=none"],
        "rows": [{"settings": {"training.local_epochs": 5}, "rouge1": 99.5, "rouge2": 98.5}],
    }  # fmt: skip
    write_json(root / "paper.json", recipe)
    return root


def write_sweep(root: Path, axes: dict[str, list[Any]]) -> None:
    """Write a sweep over ``axes`` whose cell number k read a share of 1 / (k + 1)."""
    cells: list[dict[str, Any]] = []
    for number, values in enumerate(product(*axes.values())):
        read = 1 / (number + 1)
        run = synthetic_run(root / f"cells/{number}", rounds=1, clients=1, batch=1, read=read)
        settings = dict(zip(axes, values, strict=True))
        config = run.config().as_toml()
        cells.append(cell(str(number), settings, config))
    write_json(root / "sweep.json", sweep_of(axes, cells))


def table(sweep: Path, name: str) -> list[dict[str, str]]:
    with (sweep / "report" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_sweeps_report(sweep: Path) -> None:
    html = write_report(sweep, redact=False).read_text(encoding="utf-8")
    assert "partial: 2 of 8 cells failed or are not finished" in html
    assert "RunFailed: diverged" in html
    settings = table(sweep, "settings")
    assert [(row["defense"], row["local_epochs"]) for row in settings] == [
        ("none", "1"), ("none", "5"), ("topk", "1"),
    ]  # fmt: skip
    cells = [f"topk-1-{seed}" for seed in (1, 2)]
    entries = [
        one for c in cells for one in read_json(sweep / f"cells/{c}/summary.json")["attacks"]
    ]
    assert float(settings[2]["overlap"]) == pytest.approx(
        fmean(one["metrics"]["bag_f1"] for one in entries)
    )
    assert (sweep / "report" / "heat-dager-local_epochs-defense.svg").exists()
    assert (sweep / "report" / "frontier.png").exists()


def test_a_recipes_report_has_the_papers_figures(sweep: Path) -> None:
    html = write_report(sweep, redact=True).read_text(encoding="utf-8")
    assert "A Paper, Table 2." in html and "Here differs: float32" in html
    rows = table(sweep, "paper")
    assert [(row["setting"], row["seed"]) for row in rows] == [
        ("local_epochs 5", "1"), ("local_epochs 5", "2"),
    ]  # fmt: skip
    for row in rows:
        summary = read_json(sweep / f"cells/none-5-{row['seed']}/summary.json")
        assert float(row["R-1, paper"]) == 99.5
        assert float(row["R-1, ours"]) == summary["leakage"]["dager"]["rouge1"]["mean"]
    assert "diverged" not in html  # redacted: an error might quote a text


@pytest.mark.slow
def test_a_sweep_over_tasks_has_every_tasks_metrics(tmp_path: Path) -> None:
    """Only a causal-lm run has the figures without the last token; either may come first."""
    tasks = ("causal-lm", "classification")
    cells = []
    for task in tasks:
        model = {"name": "builtin:gpt2-tiny", "task": task}
        run = synthetic_run(tmp_path / "cells" / task, rounds=1, batch=1, sections={"model": model})
        config, settings = run.config().as_toml(), {"model.task": task}
        cells.append(cell(task, settings, config))
    axes = {"model.task": tasks}
    for order in (cells, cells[::-1]):
        write_json(tmp_path / "sweep.json", sweep_of(axes, order))
        write_report(tmp_path, redact=False)
        rows = table(tmp_path, "samples")
        assert {row["cell"] for row in rows} == set(tasks)
        for row in rows:
            assert (row["exact_match_but_last"] == "") == (row["cell"] == "classification")
        metrics = [row["metric"] for row in table(tmp_path, "controls-dager")]
        assert {"exact_match", "exact_match_but_last"} <= set(metrics)


def test_the_heat_map_says_its_means() -> None:
    axes = {"y": ["1"], "x": ["a", "b"]}
    cells = [
        ({"x": "a", "y": "1"}, 0.2), ({"x": "a", "y": "1"}, 0.6),
        ({"x": "b", "y": "1"}, 0.9), ({"x": "b", "y": "1"}, None),
    ]  # fmt: skip
    plots = heat_maps("lamp", axes, cells)
    assert len(plots) == 1
    assert "Least at x = a, y = 1: 0.40; most at x = b, y = 1: 0.90." in plots[0].alt
    drawn = str(plots[0].inline(336))
    assert "0.40" in drawn and "(0.60)" in drawn and "0.90" in drawn


def test_swept_attacks_have_a_heat_map(tmp_path: Path) -> None:
    write_sweep(tmp_path, {"attack": ["dager", {"name": "dager", "max_pairs": 9}]})
    html = write_report(tmp_path, redact=False).read_text(encoding="utf-8")
    assert "most at attack = dager, read by = dager: 1.00." in html
    assert (tmp_path / "report" / "heat-dager-attack-read_by.svg").exists()
    rows = table(tmp_path, "settings")
    assert [row["attack_setting"] for row in rows] == ["dager", "dager(max_pairs=9)"]
    assert [row["attack"] for row in rows] == ["dager", "dager"]


@pytest.mark.slow
def test_keys_that_end_alike_are_named_whole(tmp_path: Path) -> None:
    axes: dict[str, list[Any]] = {
        "model.name": ["a", "b"], "data.name": ["c"], "x.exact": [1], "training.epochs": [5],
    }  # fmt: skip
    write_sweep(tmp_path, axes)
    write_report(tmp_path, redact=False)
    maps = [path.stem for path in (tmp_path / "report").glob("heat-*.svg")]
    assert len(maps) == 6 and "heat-dager-data.name-model.name" in maps
    assert "heat-dager-epochs-exact" in maps
    first = table(tmp_path, "settings")[0]
    assert [first[key] for key in axes if key in first] == ["a", "c", "1"]
    assert first["epochs"] == "5" and float(first["exact"]) == 1.0  # the share that was read


def point(number: int, leakage: float, utility: float) -> Point:
    spread = Interval(leakage, leakage, leakage)
    worth = Interval(utility, utility, utility)
    return Point(number=number, label="", keys={}, leakage=spread, utility=worth, verdict="leak")


def test_the_frontier_joins_what_nothing_beats() -> None:
    points = [point(1, 0.1, 0.5), point(2, 0.2, 0.4), point(3, 0.3, 0.9), point(4, 0.3, 0.8)]
    assert [one.number for one in _unbeaten(points, lower=False)] == [1, 3]
    assert [one.number for one in _unbeaten(points, lower=True)] == [1, 2]


def labels(points: list[Point], width: int) -> dict[str, Any]:
    """The texts in the plot's field and where they are drawn, in pixels."""
    figure = frontier(points, "accuracy").draw(width, LIGHT)
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    return {one.get_text(): one.get_window_extent() for one in axes.texts}


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_settings_at_one_place_share_a_label_and_no_label_covers_another(width: int) -> None:
    # The defense test's own: (leakage, accuracy) of eight settings, two pairs of them equal.
    places = [
        (1.0, 0.555), (0.0, 0.445), (0.0, 0.550), (0.652, 0.555),
        (0.0, 0.555), (0.0, 0.555), (0.0, 0.445), (0.0, 0.515),
    ]  # fmt: skip
    found = labels([point(k, *place) for k, place in enumerate(places, start=1)], width)
    assert set(found) == {"1", "2, 7", "3", "4", "5, 6", "8"}
    boxes = list(found.values())
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(0 < box.x0 and box.x1 < width for box in boxes)


def test_a_label_of_many_settings_says_how_many_more() -> None:
    assert set(labels([point(k, 0.5, 0.5) for k in range(1, 8)], WIDE)) == {"1, 2, 3, 4, +3"}


def test_settings_of_one_utility_are_drawn_apart_and_near_their_value() -> None:
    points = [point(k, leakage, 0.5) for k, leakage in enumerate((0.1, 0.2, 0.2, 0.9))]
    one, two, three, four = _lanes(points, up=1000.0)
    assert one < two == three < four  # two and three are the same: one marker
    assert four - one <= 16 and one + four == 0
    assert _lanes([point(1, 0.1, 0.5), point(2, 0.1, 0.6)], up=1000.0) == [0.0, 0.0]


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.7, 0.8, 0.85]
    theirs = ttest_1samp(values, 0).confidence_interval(0.95)
    ours = over_seeds(values)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert over_seeds([0.1, 0.9], share=True) == Interval(0.5, 0.0, 1.0)
    assert over_seeds([0.4]) == Interval(0.4, 0.4, 0.4)


def test_a_sweep_without_results_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = sweep_of({}, [cell("a", {}, {}, status="waiting")])
    write_json(tmp_path / "sweep.json", tree)
    assert main(["report", str(tmp_path)]) == 2
    assert "none of whose cells is done" in capsys.readouterr().err
    with pytest.raises(BadInput, match="axes: wanted"):
        write_json(tmp_path / "sweep.json", {**tree, "axes": 3})
        write_report(tmp_path, redact=False)
