"""What an attack is told of the defenses: their effects, and only where granted."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from defenses import Defense, Freeze, NoDefense, TopK
from fedsim.effects import Noises, Signs, Zeroes
from fedsim.errors import BadInput
from fedsim.lab.config import AttackSection
from fedsim.lab.display import Silent
from fedsim.lab.run.attacking import grant, in_force
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.planned import plan
from fedsim.lab.run.prepare import prepare
from fedsim.lab.run.replay import prepare_replay, run_replay
from fedsim.lab.store.run import RunDirectory
from fedsim.messages import Knowledge
from fedsim.vault.reader import Truth
from tests.lab.conftest import experiment

TRUTH = Truth(sequences=((5, 700, 6), (5, 701, 702, 6)), labels=(1, 0))


@dataclass(frozen=True, kw_only=True)
class Outsiders(Defense):
    """Stands for an outsider's defense, which says what it likes."""

    says: tuple[Any, ...] = ()

    def effects(self) -> tuple[Any, ...]:
        return self.says


def test_the_effects_of_the_defenses_in_force_are_told_in_order() -> None:
    theirs = Outsiders(says=(Noises(), Zeroes(kept=0.5)))
    told = in_force([NoDefense(), theirs, Freeze(), TopK(fraction=0.25)])
    assert told == (Noises(), Zeroes(kept=0.5), Zeroes(kept=0.25))


def test_what_is_no_effect_is_said_with_whose_it_is() -> None:
    wanted = "defense Outsiders: effects must be a tuple of Clips, .*, Zeroes, got "
    with pytest.raises(BadInput, match=wanted + "'zeroes' in it"):
        in_force([TopK(), Outsiders(says=("zeroes",))])
    with pytest.raises(BadInput, match=wanted + "None"):
        in_force([TopK(), Outsiders(says=None)])  # type: ignore[arg-type]


def test_knowledge_is_granted_by_name() -> None:
    told = (Signs(),)
    assert grant((), TRUTH, told) == Knowledge()
    assert grant(("labels",), TRUTH, told) == Knowledge(labels=(1, 0))
    assert grant(("defense", "lengths"), TRUTH, told) == Knowledge(defense=told, lengths=(3, 4))
    assert grant(("defense",), TRUTH, ()) == Knowledge(defense=())  # none is in force


def test_what_nobody_knows_cannot_be_granted() -> None:
    with pytest.raises(BadInput, match="defense cannot be granted: no config tells it"):
        grant(("defense",), TRUTH)
    with pytest.raises(BadInput, match="labels cannot be granted: no truth is known"):
        grant(("labels",), None)


OUTSIDER = '''
import json
from dataclasses import dataclass
from pathlib import Path
from defenses import Defense
from fedsim.effects import Zeroes


@dataclass(frozen=True, kw_only=True)
class EveryOther(Defense):
    """Sends every other entry."""

    def effects(self):
        return (Zeroes(kept=0.5),)

    def protect(self, tensors, generator):
        sent = {name: one.clone() for name, one in tensors.items()}
        for one in sent.values():
            one.view(-1)[::2] = 0.0
        return sent
'''


@pytest.fixture
def outsider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package with a defense of its own where Python finds it, as an installer would."""
    (tmp_path / "every_other.py").write_text(OUTSIDER)
    facts = tmp_path / "every_other-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: every_other\nVersion: 1.0\n")
    entry = "[fedsim.defenses]\nevery-other = every_other:EveryOther\n"
    (facts / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("outsider")
def test_an_attack_adapts_to_an_outsiders_defense_that_it_is_told_of(tmp_path: Path) -> None:
    told = {"defense": True, "labels": True, "lengths": True}
    config = experiment(
        federation={"rounds": 1},
        defense="every-other",
        attack=[
            {"name": "dlg", "steps": 1, "knowledge": told},
            {"name": "dlg", "steps": 1, "knowledge": told | {"defense": False}},
        ],
    )
    run = RunDirectory(tmp_path / "run")
    run.create(config)
    summary, _ = run_experiment(prepare(config), run, Silent(), quick=True)
    adapts = {row["attack"]: row["diagnostics"]["adapts"] for row in reconstructions(run.root)}
    assert adapts == {"dlg": True, "dlg-2": False}
    knowledge = {entry.attack: entry.knowledge for entry in summary.attacks}
    assert knowledge == {"dlg": told, "dlg-2": {"labels": True, "lengths": True}}

    asked = ["steps=1", "knowledge.defense=true", "knowledge.lengths=true"]
    replay = prepare_replay(run.root, "tag", asked, tmp_path / "again")
    run_replay(replay, Silent(), quick=True)
    assert all(row["diagnostics"]["adapts"] for row in reconstructions(tmp_path / "again"))


def reconstructions(root: Path) -> list[dict[str, Any]]:
    """Return what was noted of the attacks on clients' updates."""
    rows = map(json.loads, (root / "reconstructions.jsonl").read_text().splitlines())
    noted = [row for row in rows if row["role"] == "attack"]
    assert noted and not any(row["error"] for row in noted)
    return noted


@pytest.mark.parametrize("name", ["candidates", "public"])
def test_texts_to_ask_about_are_of_an_attack_that_is_asked(name: str) -> None:
    with pytest.raises(BadInput, match=rf"unknown attack\.knowledge '{name}'"):
        plan([AttackSection(name="dager", knowledge={name: True})])
    (asked,) = plan([AttackSection(name="membership", knowledge={name: True, "labels": True})])
    assert asked.asks and asked.knowledge == ("labels",)  # the others it is shown anyway
