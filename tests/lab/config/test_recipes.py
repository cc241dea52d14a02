"""Every recipe's config, its grid and the paper's figures beside it."""

import json
from pathlib import Path

import pytest

from fedsim.errors import BadInput
from fedsim.lab.config import read_toml
from fedsim.lab.config.recipes import Recipe, recipe_of
from fedsim.lab.run.prepare import prepare
from fedsim.lab.sweep.grid import make_plan

RECIPES = sorted((Path(__file__).parents[3] / "examples" / "recipes").glob("*.toml"))
DATA = Path(__file__).parents[4] / "shared" / "data" / "datasets"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_grid_with_the_papers_figures_beside_it(path: Path) -> None:
    recipe = recipe_of(path)
    assert recipe is not None
    plan = make_plan(read_toml(path), recipe.grid, quick=False, recipe=recipe)
    assert len(plan.cells) > 1
    for cell in plan.cells:
        assert recipe.beside(cell.config.as_toml()) is not None, cell.name
        assert recipe.attack in [section.name for section in cell.config.attack]


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_passes_every_check(path: Path) -> None:
    base = read_toml(path)
    data = DATA / base["data"]["name"]
    if not base["model"]["name"].startswith("builtin:"):
        # The hub's weights are not here: the same at a small size instead.
        kind = "bert" if "bert" in base["model"]["name"] else "gpt2"
        base["model"]["name"], base["data"]["max_length"] = f"builtin:{kind}-tiny", 24
    base["model"].pop("tokenizer", None)  # the hub's, too
    if not data.is_dir():
        pytest.skip(f"needs {data.name} beside the repository (shared/data), which is absent")
    recipe = recipe_of(path)
    assert recipe is not None
    for cell in make_plan(base, [*recipe.grid, f"data.path={data}"], quick=False).cells:
        prepare(cell.config)


def recipe(**changes: object) -> Recipe:
    path = RECIPES[0].with_suffix(".paper.json")
    return Recipe.model_validate(json.loads(path.read_text()) | changes)


def test_the_command_line_replaces_keys_of_the_grid() -> None:
    made = recipe(grid=["training.batch_size=1,2", "seed=1,2"])
    assert made.words([]) == ["training.batch_size=1,2", "seed=1,2"]
    assert made.words(["seed=3", "data.path=x"]) == [
        "training.batch_size=1,2",
        "seed=3",
        "data.path=x",
    ]


def test_a_row_stands_beside_the_configs_that_have_its_settings() -> None:
    rows = [
        {"settings": {"training.batch_size": 1}, "rouge1": 10.0},
        {"settings": {"training.batch_size": 2, "data.name": "cola"}, "rouge1": 20.0},
    ]
    made = recipe(rows=rows)
    row = made.beside({"training": {"batch_size": 2}, "data": {"name": "cola"}})
    assert row is not None and row.rouge1 == 20.0
    assert made.beside({"training": {"batch_size": 2}, "data": {"name": "sst2"}}) is None
    assert made.beside({"seed": 1}) is None
    made = recipe(rows=[{"settings": {"defense.name": "sign"}, "rouge1": 30.0}])
    assert made.beside({"defense": [{"name": "sign"}]}) is not None
    assert made.beside({"defense": [{"name": "sign"}, {"name": "topk"}]}) is None


def test_a_recipe_that_is_wrong_is_bad_input(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    assert recipe_of(config) is None
    (tmp_path / "mine.paper.json").write_text("{")
    with pytest.raises(BadInput, match=r"mine.paper.json.*not valid JSON"):
        recipe_of(config)
    (tmp_path / "mine.paper.json").write_text('{"schema": 1}')
    with pytest.raises(BadInput, match=r"mine.paper.json: attack: missing"):
        recipe_of(config)
