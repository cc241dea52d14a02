"""What an attack is told of the defenses: a known word and numbers, and only where granted."""

from dataclasses import dataclass

import pytest

from defenses import Defense, NoDefense
from fedsim.errors import BadInput
from fedsim.lab.run.attacking import grant, in_force
from fedsim.messages import DefenseInForce, Knowledge
from fedsim.vault.reader import Truth

TRUTH = Truth(sequences=((5, 700, 6), (5, 701, 702, 6)), labels=(1, 0))


@dataclass(frozen=True, kw_only=True)
class Largest(Defense):
    """Stands for a defense with settings of all kinds."""

    fraction: float = 0.25
    steps: int = 3
    residual: bool = True
    layer: str = "all"
    rate: float | None = None


def test_the_defenses_in_force_are_told_by_name_and_numbers() -> None:
    told = in_force(["none", "topk", "someones-own"], [NoDefense(), Largest(), Largest()])
    numbers = {"fraction": 0.25, "steps": 3, "residual": True}  # by hand: what is no text, no gap
    assert told == (DefenseInForce(name="topk", numbers=numbers),)


def test_knowledge_is_granted_by_name() -> None:
    told = (DefenseInForce(name="sign"),)
    assert grant((), TRUTH, told) == Knowledge()
    assert grant(("labels",), TRUTH, told) == Knowledge(labels=(1, 0))
    assert grant(("defense", "lengths"), TRUTH, told) == Knowledge(defense=told, lengths=(3, 4))
    assert grant(("defense",), TRUTH, ()) == Knowledge(defense=())  # none is in force


def test_what_nobody_knows_cannot_be_granted() -> None:
    with pytest.raises(BadInput, match="defense cannot be granted: no config tells it"):
        grant(("defense",), TRUTH)
    with pytest.raises(BadInput, match="labels cannot be granted: no truth is known"):
        grant(("labels",), None)
