"""A run's verdict: no leak is earned by a working attack of each kind that applies."""

from pathlib import Path
from typing import Any

import pytest

from attacks import ATTACKS
from fedsim.lab.config.standard import ATTACKS as STANDARD
from fedsim.lab.display import Silent
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.scoring.earned import FIRST, Tried, kinds_for, run_verdict
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.summary import Judgement, read_summary
from fedsim.models import ModelSpec, load_adapter
from fedsim.types import Kind
from tests.lab.conftest import experiment, preset

KINDS: dict[Kind, str] = dict(FIRST)


def tried(*, told: bool = True, **verdicts: Any) -> dict[str, Tried]:
    """Attacks by name, with their verdicts."""
    return {
        name: Tried(
            attack=ATTACKS[name](), judged=Judgement(verdict=verdict, reason="Why."), told=told
        )
        for name, verdict in verdicts.items()
    }


@pytest.mark.parametrize(
    ("verdicts", "wanted", "missing"),
    [
        ({"dager": "no-leak", "lamp": "no-leak", "bag": "no-leak"}, "no-leak", []),
        ({"dager": "no-leak"}, "inconclusive", ["matching", "analytic"]),
        ({"dager": "no-leak", "lamp": "inconclusive", "bag": "no-leak"}, "inconclusive",
         ["matching"]),
        ({"dager": "no-leak", "lamp": "inconclusive", "tag": "no-leak", "labels": "no-leak"},
         "no-leak", []),  # another of its kind works
        ({"dager": "no-leak", "bag": "leak"}, "leak", ["matching", "analytic"]),
        ({"dager": "inconclusive", "lamp": "leak"}, "leak", ["span", "matching", "analytic"]),
        ({}, "inconclusive", ["span", "matching", "analytic"]),
        ({"dager": "no-leak", "lamp": "no-leak", "bag": "no-leak", "membership": "inconclusive"},
         "inconclusive", []),  # what was asked must be answered
        ({"dager": "no-leak", "lamp": "no-leak", "bag": "no-leak", "membership": "no-leak"},
         "no-leak", []),
    ],
)  # fmt: skip
def test_each_kind_must_work_and_one_leak_is_one(
    verdicts: dict[str, Any], wanted: str, missing: list[Kind]
) -> None:
    whole = run_verdict(tried(**verdicts), KINDS)
    assert (whole.verdict, whole.missing) == (wanted, missing)
    if wanted == "inconclusive" and verdicts:
        never = [kind for kind in missing if kind not in whole.tried]
        assert all(FIRST[kind] in whole.reason for kind in never)  # what to run


def test_silence_without_knowing_the_defense_does_not_count() -> None:
    every = {"dager": "no-leak", "lamp": "no-leak", "bag": "no-leak"}
    whole = run_verdict(tried(told=False, **every), KINDS)
    assert whole.verdict == "inconclusive" and whole.missing == list(KINDS)
    assert "knowledge = {defense = true}" in whole.reason
    leak = run_verdict(tried(told=False, **{**every, "bag": "leak"}), KINDS)
    assert leak.verdict == "leak"  # what was read was read


def test_an_attack_that_has_nothing_to_go_by_asks_for_nothing() -> None:
    some = tried(dager="no-leak", lamp="no-leak", bag="inconclusive")
    bag = Tried(attack=some["bag"].attack, judged=some["bag"].judged, told=True, fits=False)
    needed: dict[Kind, str] = {"span": "dager", "matching": "lamp"}
    assert run_verdict({**some, "bag": bag}, needed).verdict == "no-leak"
    other = run_verdict({**some, "bag": bag}, {**needed, "analytic": "labels"})
    assert (other.verdict, other.missing) == ("inconclusive", ["analytic"])
    assert "No analytic attack was tried" in other.reason and "add labels" in other.reason
    silent = Tried(attack=bag.attack, judged=Judgement(verdict="no-leak"), told=True, fits=False)
    assert run_verdict({**some, "bag": silent}, KINDS).missing == ["analytic"]


def test_kinds_apply_where_what_they_go_by_travels() -> None:
    assert kinds_for(preset()) == KINDS
    frozen = load_adapter(ModelSpec(name="builtin:gpt2-tiny", freeze=("embeddings",)))
    assert not ATTACKS["bag"]().applies(frozen)
    assert kinds_for(frozen) == {**KINDS, "analytic": "labels"}
    hidden = load_adapter(
        ModelSpec(name="builtin:bert-tiny", task="masked-lm", freeze=("embeddings",))
    )
    assert list(kinds_for(hidden)) == ["span", "matching"]  # and it counts no labels of that task


def test_the_standard_set_has_one_of_each_kind() -> None:
    assert {ATTACKS[table["name"]].kind for table in STANDARD} == set(FIRST)
    assert {kind: ATTACKS[name].kind for kind, name in FIRST.items()} == {k: k for k in FIRST}
    assert all(kind.kind for kind in ATTACKS.values())


@pytest.mark.slow
def test_topk_hides_texts_from_dager_and_not_what_was_in_the_batch(tmp_path: Path) -> None:
    """Of a hundredth of the entries DAGER reads nothing; which rows they are in says tokens."""
    known = {"knowledge": {"defense": True}}
    both = [{"name": "dager", **known}, {"name": "bag", **known}]
    for attacks, verdict in ((both[:1], "inconclusive"), (both, "leak")):
        config = experiment(attack=attacks, defense="topk", federation={"rounds": 1})
        run = RunDirectory(tmp_path / str(len(attacks)))
        run.create(config)
        summary, _ = run_experiment(prepare(config), run, Silent())
        assert summary.verdicts["dager"].verdict != "leak"
        assert summary.overall.verdict == verdict == read_summary(run.root).overall.verdict
    assert summary.verdicts["bag"].verdict == "leak"
