import itertools
from typing import Any

import pytest

from fedsim.errors import BadInput
from fedsim.lab.sweep.grid import Axis, axes, cells, make_plan

BASE: dict[str, Any] = {
    "model": {"name": "builtin:gpt2-tiny"},
    "data": {"name": "builtin:clinic"},
    "attack": [{"name": "dager"}],
}


def grid(*words: str, **base: Any) -> list[dict[str, Any]]:
    return [dict(cell.settings) for cell in make_plan(BASE | base, words, quick=False).cells]


# Words


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("seed=1,2, 3", (1, 2, 3)),
        ("training.learning_rate=1e-4,0.1", (1e-4, 0.1)),
        ("defense=none,topk", ("none", "topk")),
        ('defense=none,{name="topk", fraction=0.1}', ("none", {"name": "topk", "fraction": 0.1})),
        ('attack=[{name="dager", rounds=[1, 2]}],[]', ([{"name": "dager", "rounds": [1, 2]}], [])),
        ('data.text_column="a,b",c', ("a,b", "c")),
        ('data.text_column=\'a]\',"b\\""', ("a]", 'b"')),
        ("training.dropout=true,false", (True, False)),
        ("model.name=builtin:gpt2-tiny,some/model", ("builtin:gpt2-tiny", "some/model")),
        ("seed=7", (7,)),
    ],
)
def test_a_word_is_a_key_and_its_values(word: str, values: tuple[Any, ...]) -> None:
    assert axes([word]) == [Axis(word.partition("=")[0], values)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seed"], r"wanted key=v1,v2, got 'seed'"),
        (["=1,2"], r"wanted key=v1,v2, got '=1,2'"),
        (["seed="], r"seed: wanted values between commas, got ''"),
        (["seed=1,,2"], r"seed: wanted values between commas, got '1,,2'"),
        (["seed=1,2,"], r"seed: wanted values between commas"),
        (["seed=1,2,1"], r"seed: the value 1 is there twice"),
        (["seed=1,1.0"], r"seed: the value 1 is there twice"),
        (["seed=1,true,2,true"], r"seed: the value true is there twice"),
        (["seed=1", "seed=2"], r"seed: given twice; name all its values at once: seed=v1,v2"),
        (["attack=[1,2"], r"attack: \] is missing in '\[1,2'"),
        (["defense={name='a"], r"defense: ' is missing"),
        ([], r"nothing to sweep over; wanted key=v1,v2"),
    ],
)
def test_words_that_make_no_grid(words: list[str], line: str) -> None:
    with pytest.raises(BadInput, match=line):
        axes(words)


# Cells


def test_the_grid_is_the_product_the_last_key_fastest() -> None:
    found = grid("seed=1,2", "training.local_epochs=1,5", "federation.rounds=2")
    pairs = itertools.product((1, 2), (1, 5))
    assert found == [{"seed": seed, "training.local_epochs": epochs} for seed, epochs in pairs]


def test_a_cell_is_the_base_with_its_values() -> None:
    plan = make_plan(
        BASE, ["training.batch_size=3", "training.learning_rate=1,0.5", "seed=4"], quick=True
    )
    assert [cell.config.training.learning_rate for cell in plan.cells] == [1.0, 0.5]
    assert {cell.config.training.batch_size for cell in plan.cells} == {3}
    assert {cell.config.seed for cell in plan.cells} == {4}
    assert plan.axes == {"training.learning_rate": (1, 0.5)} and plan.quick
    assert BASE["attack"] == [{"name": "dager"}]  # the base stays as it was


def test_names_are_readable_safe_and_different() -> None:
    plan = make_plan(BASE, ["training.learning_rate=0.1,0.10000001", "seed=1,2"], quick=False)
    names = [cell.name for cell in plan.cells]
    assert len(set(names)) == 4
    starts = ("learning_rate=0.1,seed=", "learning_rate=0.10000001,seed=")
    assert all(name.startswith(starts) for name in names)
    assert set("".join(names)) <= set("abcdefghijklmnopqrstuvwxyz0123456789._=,+-")


def test_a_parameter_goes_to_the_plugins_that_have_it() -> None:
    words = ["attack=dager,[]", "attack.max_pairs=5,6"]
    assert grid(*words) == [
        {"attack": "dager", "attack.max_pairs": 5},
        {"attack": "dager", "attack.max_pairs": 6},
        {"attack": [], "attack.max_pairs": None},  # once: nothing there has it
    ]
    two = [{"name": "dager", "rounds": [1]}, {"name": "dager", "rounds": [2]}]
    plan = make_plan(BASE | {"attack": two}, ["attack.max_pairs=5,6"], quick=False)
    for cell, pairs in zip(plan.cells, (5, 6), strict=True):
        assert [one.parameters for one in cell.config.attack] == [{"max_pairs": pairs}] * 2
    assert grid("attack.rounds=[1],[2]") == [{"attack.rounds": [1]}, {"attack.rounds": [2]}]


def test_cells_that_differ_in_attacks_alone_train_alike() -> None:
    words = ["attack.max_pairs=5,6", "seed=1,2"]
    plan = make_plan(BASE, words, quick=False)
    first, second, third, fourth = [cell.training for cell in plan.cells]
    assert first == third != second == fourth
    alone = make_plan(BASE | {"federation": {"capture": False}}, words, quick=False)
    assert len({cell.training for cell in alone.cells}) == 4  # there is nothing to attack again


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["training.batchsize=1,2"], r"did you mean 'training.batch_size'"),
        (["training.batch_size=1,x"], r"wanted integer, got 'x' \(in the cell .*batch_size=x\)"),
        (["federation.clients=2", "federation.clients_per_round=1,3"], r"at most .* = 2, got 3"),
        (["attack.max_pair=1,2"], r"no attack of this sweep has it: .*did you mean 'max_pairs'"),
        (["defense.fraction=1,2"], r"no defense of this sweep has it: unknown parameter"),
        (["defense=none", "defense.fraction=1,2"], r"no defense of this sweep has it"),
        (["seed.x=1,2"], r"seed: wanted integer|seed is not a table"),
    ],
)
def test_cells_that_cannot_be(words: list[str], line: str) -> None:
    with pytest.raises(BadInput, match=line) as caught:
        cells(BASE, axes(words))
    assert "\n" not in str(caught.value)
