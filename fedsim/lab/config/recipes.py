"""Recipes: a config that reproduces a paper's table, with the paper's own figures beside ours.

Beside ``examples/recipes/<name>.toml`` lies ``<name>.paper.json``::

    {"schema": 1, "attack": "dager", "paper": "<title, venue, arXiv id>", "table": "Table 2, CoLA",
     "setup": "<what the paper ran: weights, dtype, updates, convention of the scores>",
     "differs": "<where this recipe departs from it>",
     "grid": ["training.batch_size=1,2,4,8"],
     "rows": [{"settings": {"training.batch_size": 1}, "rouge1": 100.0, "rouge2": 100.0}, ...]}

``grid`` is what ``fedsim sweep`` takes where the command line names no key of its own for it.
A row stands beside every cell whose config has its settings. A sweep keeps the file as
``paper.json``, for its report.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from fedsim.errors import BadInput
from fedsim.files import read_json
from fedsim.lab.config import Section, checked

FILE = "paper.json"


class PaperRow(Section):
    """One row of the paper's table: where it belongs, and its means over samples x 100."""

    settings: dict[str, Any]
    rouge1: float = Field(ge=0, le=100)
    rouge2: float | None = Field(None, ge=0, le=100)


class Recipe(Section):
    """What lies beside a recipe's config."""

    schema_: int = Field(1, alias="schema", ge=1, le=1)
    attack: str
    paper: str
    table: str
    setup: str
    differs: str
    grid: list[str]
    rows: list[PaperRow]

    def beside(self, config: Mapping[str, Any]) -> PaperRow | None:
        """Return the paper's row for a config's tables, or None."""
        for row in self.rows:
            if all(_at(config, key) == value for key, value in row.settings.items()):
                return row
        return None

    def words(self, given: Sequence[str]) -> list[str]:
        """Return the grid with what the command line says instead, or besides."""
        keys = {word.partition("=")[0].strip() for word in given}
        own = [word for word in self.grid if word.partition("=")[0] not in keys]
        return [*own, *given]


def recipe_of(config: Path) -> Recipe | None:
    """Return what lies beside a config, or None where nothing does.

    Raises:
        BadInput: it does not say what a recipe must.
    """
    return read_recipe(config.with_suffix(f".{FILE}"))


def read_recipe(path: Path) -> Recipe | None:
    """Return the recipe in a file, or None where there is none.

    Raises:
        BadInput: it does not say what a recipe must.
    """
    if not path.exists():
        return None
    try:
        return checked(Recipe, read_json(path))
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from error


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(tree, Sequence) and len(tree) == 1:  # a list of plugins: the only one
            tree = tree[0]
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree
