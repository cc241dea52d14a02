from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from clients import ClientSettings, DataSettings
from fedsim.lab.config import EngineName, known_keys
from fedsim.lab.config.reference import choices, reference
from fedsim.lab.engines import ENGINES, Resources
from fedsim.lab.run.trackers import TRACKERS
from fedsim.models import ModelSpec
from fedsim.training import TrainingSettings
from server import ServerSettings

ROOT = Path(__file__).parents[3]
SIDES = (ModelSpec, DataSettings, TrainingSettings, ServerSettings, ClientSettings, Resources)
ELSEWHERE = {  # the lab's own affair
    "engine", "capture", "cpus_per_client", "gpus_per_client", "ray_address",
    "response_only",  # the model's ``response`` tells where it begins
}  # fmt: skip


def rows() -> dict[str, list[str]]:
    """The cells of each key's row, by the key."""
    lines = [line for line in reference().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_the_committed_reference_is_what_the_schema_says() -> None:
    written = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert written == reference(), "run python -m fedsim.lab.config.reference > docs/config.md"


def test_every_key_is_there_with_its_meaning() -> None:
    there = rows()
    assert sorted(there) == known_keys()
    assert all(len(cells) == 3 and all(cells) for cells in there.values())


@pytest.mark.parametrize(
    ("key", "default", "allowed"),
    [  # design.md, section 6, "Config"
        ("model.name", "required", "text"),
        ("model.task", '`"classification"`', "`classification`, `causal-lm`, `masked-lm`"),
        ("model.freeze", "`[]`", "a list of texts"),
        ("data.alpha", "`0.5`", "a number, above 0"),
        ("federation.clients_per_round", "all", "an integer, 1 or more"),
        ("federation.capture", "`true`", "`true` or `false`"),
        ("federation.strategy_options", "`{}`", "a table"),
        ("attack.rounds", "`[]`", "a list of integers"),
        ("name", '`"experiment"`', "text, matches `^[A-Za-z0-9._-]+$`"),
    ],
)
def test_what_is_said_of_a_key(key: str, default: str, allowed: str) -> None:
    assert rows()[key][:2] == [default, allowed]


def test_the_words_of_a_key_are_named() -> None:
    there = rows()
    assert set(choices()) <= set(there)
    assert all(f"`{name}`" in there["tracker"][2] for name in TRACKERS)
    assert set(get_args(EngineName)) == set(ENGINES)


def test_a_key_reaches_the_side_that_it_is_for() -> None:
    taken = {field.name for kind in SIDES for field in fields(kind)} | ELSEWHERE
    tables = ("model.", "data.", "federation.", "training.")
    keys = [key for key in known_keys() if key.startswith(tables)]
    assert len(keys) > 30
    assert [key for key in keys if key.rpartition(".")[2] not in taken] == []
