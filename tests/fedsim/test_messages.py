"""The first lock on the truth: no message can carry text."""

import types
import typing
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from typing import Any, Literal

import pytest
import torch

from fedsim import limits
from fedsim.effects import Effect, Signs, Zeroes
from fedsim.errors import MalformedMessage
from fedsim.messages import (
    Broadcast,
    Knowledge,
    Observation,
    Reconstruction,
    Texts,
    Update,
)

SECRET: Any = "The patient is Ada Lovelace."
EFFECTS = typing.get_args(Effect)
MESSAGES = (Broadcast, Update, *EFFECTS, Texts, Knowledge, Observation, Reconstruction)


def update(**changes: Any) -> Update:
    return Update(**{"tensors": {}, "kind": "gradient", "num_examples": 1, **changes})


def test_an_update_keeps_what_it_was_given() -> None:
    tensors = {"w": torch.ones(2, 3)}
    made = update(tensors=tensors, kind="delta", num_examples=0, metrics={"loss": 0.5, "ok": True})
    assert made.tensors is tensors
    assert (made.kind, made.num_examples) == ("delta", 0)
    assert made.metrics == {"loss": 0.5, "ok": True}


@pytest.mark.parametrize("kind", ["weights", "Gradient", "", None, 3, SECRET])
def test_an_update_is_a_gradient_or_a_delta(kind: Any) -> None:
    with pytest.raises(MalformedMessage, match=r"kind must be gradient or delta, got "):
        update(kind=kind)


def test_an_update_counts_no_negative_examples() -> None:
    with pytest.raises(MalformedMessage, match=r"num_examples must be >= 0, got -1"):
        update(num_examples=-1)


@pytest.mark.parametrize(
    "value", [SECRET, SECRET.encode(), [SECRET], (SECRET,), {"text": SECRET}, None]
)
def test_a_metric_carries_no_text(value: Any) -> None:
    with pytest.raises(MalformedMessage, match=r"metric 'note' must be a number, got \w+"):
        update(metrics={"loss": 0.5, "note": value})


@pytest.mark.parametrize("value", [SECRET, SECRET.encode(), [SECRET], None, torch.ones(1)])
def test_a_diagnostic_carries_no_text(value: Any) -> None:
    with pytest.raises(MalformedMessage, match=r"diagnostic 'note' must be a number, got \w+"):
        Reconstruction(sequences=(), diagnostics={"rank": 3, "cut": False, "note": value})


@pytest.mark.parametrize("sequence", [SECRET, ("The", "patient"), (1, SECRET), (1, 2.0), (1, None)])
def test_a_sequence_carries_no_text(sequence: Any) -> None:
    with pytest.raises(MalformedMessage, match="a sequence must hold token ids, got "):
        Reconstruction(sequences=((4, 5), sequence))


def test_sequences_are_not_one_text() -> None:
    with pytest.raises(MalformedMessage, match="a sequence must hold token ids, got 'T'"):
        Reconstruction(sequences=SECRET)


def test_a_guess_has_an_end() -> None:
    half = (1,) * (limits.GUESS // 2)
    assert Reconstruction(sequences=(half, half)).sequences
    with pytest.raises(MalformedMessage, match="at most 1,048,576 tokens, got 1,048,577"):
        Reconstruction(sequences=(half, half, (1,)))


@pytest.mark.parametrize("name", ["labels", "lengths"])
@pytest.mark.parametrize("values", [SECRET, (1, SECRET), ("urgent",), (1, None)])
def test_labels_and_lengths_carry_no_text(name: str, values: Any) -> None:
    with pytest.raises(MalformedMessage, match=rf"knowledge.{name} must be ints, got (str|None)"):
        Knowledge(**{name: values})


@pytest.mark.parametrize("name", ["labels", "lengths"])
@pytest.mark.parametrize("values", [(8.0, 6.0), (1, True), (0.5, 1), (False,)])
def test_labels_and_lengths_are_whole_numbers(name: str, values: Any) -> None:
    wrong = next(value for value in values if type(value) is not int)
    with pytest.raises(MalformedMessage, match=rf"knowledge.{name} must be ints, got {wrong}$"):
        Knowledge(**{name: values})
    known: Any = {name: (0, 3)}
    assert Knowledge(**known).granted() == {name: True}


@pytest.mark.parametrize("value", [True, 2.0])
def test_a_batch_size_is_a_whole_number(value: Any) -> None:
    with pytest.raises(MalformedMessage, match=rf"knowledge.batch_size must be int, got {value}$"):
        Knowledge(batch_size=value)


@pytest.mark.parametrize("value", [SECRET, [SECRET], {"text": SECRET}])
def test_a_batch_size_carries_no_text(value: Any) -> None:
    with pytest.raises(MalformedMessage, match=r"knowledge.batch_size"):
        Knowledge(batch_size=value)


@pytest.mark.parametrize("value", [SECRET, [SECRET], {"text": SECRET}])
def test_an_example_count_carries_no_text(value: Any) -> None:
    with pytest.raises((MalformedMessage, TypeError)):
        update(num_examples=value)


@pytest.mark.parametrize("value", [SECRET, [SECRET], 3.0])
def test_an_update_carries_tensors_and_no_text(value: Any) -> None:
    with pytest.raises(MalformedMessage, match="'note'"):
        update(tensors={"w": torch.ones(2), "note": value})


def leaves(annotation: Any) -> set[Any]:
    """Return what a field can hold in the end: the types inside tuples, mappings and unions."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return {annotation}
    if origin in (typing.Union, types.UnionType, tuple):
        return set().union(*(leaves(part) for part in inside if part is not Ellipsis))
    if origin is Mapping:  # keys are names: of parameters, metrics, settings
        return leaves(inside[1])
    return {annotation}


def test_no_field_of_what_a_client_sends_or_an_attack_gives_is_of_a_text_type() -> None:
    from fedsim.models import ModelAdapter

    held = {
        f"{kind.__name__}.{name}": leaves(annotation)
        for kind in MESSAGES
        for name, annotation in typing.get_type_hints(
            kind, localns={"ModelAdapter": ModelAdapter}
        ).items()
    }
    plain = {bool, int, float, type(None), torch.Tensor, *MESSAGES, ModelAdapter}
    wordy = {name: kinds - plain for name, kinds in held.items() if kinds - plain}
    # by hand: the server's own training config names an optimizer; kinds are of a few words
    assert wordy == {
        "Broadcast.config": {str},
        "Update.kind": {Literal["gradient", "delta"]},
    }


@pytest.mark.parametrize("kind", EFFECTS)
def test_an_effect_is_numbers(kind: Any) -> None:
    for field in fields(kind):
        assert getattr(kind(**{field.name: 1}), field.name) == 1
        wanted = f"effect {kind.__name__}: {field.name} must be a number, got str"
        with pytest.raises(MalformedMessage, match=wanted):
            kind(**{field.name: SECRET})


def test_a_defense_that_is_known_is_effects() -> None:
    class Told(Zeroes):
        """Says more than the vocabulary has."""

        note = SECRET

    for other in (SECRET, Told()):
        with pytest.raises(MalformedMessage, match=r"knowledge.defense must be effects, got "):
            Knowledge(defense=(other,))
    assert Knowledge(defense=()).granted() == {"defense": True}
    assert Knowledge(defense=(Zeroes(), Signs())).granted() == {"defense": True}


@pytest.mark.parametrize(
    ("sequences", "labels", "line"),
    [
        (((5, 6),), (), "a label each, got 0 for 1"),
        (((5, SECRET),), (0,), "must be token ids"),
        ((SECRET,), (0,), "must be token ids"),
        (((),), (0,), "one or more each"),
        (((5,),), (SECRET,), "labels must be ints or absent"),
        (((5,),), (True,), "labels must be ints or absent"),
    ],
)
def test_texts_are_numbers(sequences: Any, labels: Any, line: str) -> None:
    with pytest.raises(MalformedMessage, match=line):
        Texts(sequences=sequences, labels=labels)


def test_candidates_are_texts_and_an_answer_is_a_number_each() -> None:
    for name in ("candidates", "public"):
        with pytest.raises(MalformedMessage, match=f"knowledge.{name} must be Texts"):
            Knowledge(**{name: ((5, 6),)})  # type: ignore[arg-type]
    for scores, members, line in (
        ((1.0,), (), "1 scores and 0 answers"),
        ((float("nan"),), (True,), "finite"),
        ((SECRET,), (True,), "finite"),
    ):
        with pytest.raises(MalformedMessage, match=line):
            Reconstruction(scores=scores, members=members)


def test_knowledge_is_nothing_by_default_and_says_what_was_granted() -> None:
    assert Knowledge.names() == (
        "batch_size", "candidates", "defense", "labels", "lengths", "public",
    )  # fmt: skip
    assert Knowledge().granted() == {}
    granted = Knowledge(labels=(0, 1), batch_size=2).granted()
    assert granted == {"batch_size": True, "labels": True}
    assert Knowledge(labels=()).granted() == {"labels": True}  # none of them, but granted


@pytest.mark.parametrize("kind", MESSAGES)
def test_messages_are_frozen_and_keyword_only(kind: type) -> None:
    assert all(entry.kw_only for entry in fields(kind))
    with pytest.raises(FrozenInstanceError):
        Knowledge().labels = (1,)  # type: ignore[misc]
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
