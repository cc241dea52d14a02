"""The standard set of attacks stands for its tables, wherever it is named."""

from typing import Any

import pytest

from fedsim.errors import BadInput
from fedsim.lab.config import load_config
from fedsim.lab.run.planned import plan


def planned(attack: str) -> list[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    """Name, knowledge and rounds of each attack that a value of ``attack`` stands for."""
    some = plan(load_config(None, [f"attack={attack}"]).attack)
    return [(one.name, one.knowledge, one.rounds) for one in some]


NAMES = ("dager", "bag", "lamp")


@pytest.mark.parametrize(
    ("attack", "wanted"),
    [
        ("standard", [(name, ("defense",), ()) for name in NAMES]),
        ('[{name="standard",rounds=[1]}]', [(name, ("defense",), (1,)) for name in NAMES]),
        ('{name="standard",knowledge={labels=true}}', [(name, ("labels",), ()) for name in NAMES]),
        ('["tag","standard"]', [("tag", (), ()), *((name, ("defense",), ()) for name in NAMES)]),
        ('["standard","dager"]', [*((n, ("defense",), ()) for n in NAMES), ("dager-2", (), ())]),
        ("dager", [("dager", (), ())]),
    ],
)
def test_what_stands_beside_its_name_is_of_each(attack: str, wanted: list[Any]) -> None:
    assert planned(attack) == wanted


def test_a_parameter_that_not_all_have_is_bad_input() -> None:
    with pytest.raises(BadInput, match="attack dager: unknown parameter 'steps'"):
        planned('{name="standard",steps=3}')
