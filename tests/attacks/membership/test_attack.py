"""Membership on a tiny model: who is recognised, and what says nothing."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks import Membership
from attacks.membership.attack import _LAST
from attacks.membership.texts import twins
from fedsim.errors import UnsupportedObservation
from fedsim.local import LocalTraining
from fedsim.messages import Broadcast, Knowledge, Observation, Texts, Update
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings
from tests.attacks.conftest import random_texts
from tests.conftest import initial

MEMBERS, OUTSIDERS, PUBLIC = 12, 40, 100


@functools.cache
def world() -> tuple[ModelAdapter, Texts]:
    model = load_adapter(ModelSpec(name="builtin:gpt2-tiny"))
    lengths = tuple(8 + row % 7 for row in range(2 * MEMBERS + OUTSIDERS + PUBLIC))
    rows = random_texts(model, lengths, seed=5)
    return model, Texts(sequences=tuple(rows), labels=tuple(row % 2 for row in range(len(rows))))


def observed(members: Texts, candidates: Texts | None, **settings: Any) -> Observation:
    """What is seen of a client that trained on ``members``."""
    model, texts = world()
    training = TrainingSettings(**settings)
    weights = initial(model)
    examples = Examples(sequences=members.sequences, labels=members.labels)
    made, _ = LocalTraining(model, training)(weights, examples, stream(1, "client"))
    public = texts.take(range(2 * MEMBERS + OUTSIDERS, len(texts)))
    return Observation(
        model=model,
        broadcast=Broadcast(round=1, parameters=weights, config=training.as_config()),
        update=Update(
            tensors=made,
            kind="gradient" if training.algorithm == "fedsgd" else "delta",
            num_examples=len(members),
        ),
        knowledge=Knowledge(candidates=candidates, public=public),
    )


def everyone() -> tuple[Texts, Texts, Texts, Texts]:
    """Members, another client's, outsiders, the members' twins."""
    model, texts = world()
    members, others = texts.take(range(MEMBERS)), texts.take(range(MEMBERS, 2 * MEMBERS))
    outsiders = texts.take(range(2 * MEMBERS, 2 * MEMBERS + OUTSIDERS))
    return members, others, outsiders, twins(model, members, stream(2, "twins"))


@pytest.mark.slow
def test_members_are_told_exactly_and_their_twins_are_not() -> None:
    members, others, outsiders, near = everyone()
    asked = members.and_(others).and_(outsiders).and_(near)
    said = Membership().reconstruct(observed(members, asked), torch.Generator())
    assert said.diagnostics["exact"] and not said.sequences
    assert said.members == (True,) * MEMBERS + (False,) * (len(asked) - MEMBERS)
    assert min(said.scores[:MEMBERS]) > max(said.scores[MEMBERS:])


@pytest.mark.slow
def test_under_adam_members_stand_out_and_another_clients_do_not() -> None:
    members, others, outsiders, _ = everyone()
    asked = members.and_(others).and_(outsiders)
    adam = {"algorithm": "fedavg", "optimizer": "adamw", "learning_rate": 1e-4,
            "mini_batch_size": 4, "dropout": True}  # fmt: skip
    seen = observed(members, asked, **adam)
    said = Membership().reconstruct(seen, torch.Generator())
    assert not said.diagnostics["exact"]
    called = torch.tensor(said.members)
    assert called[:MEMBERS].float().mean() > 0.5
    assert called[MEMBERS:].float().mean() < 0.12
    others_first = observed(others, asked, **{**adam, "learning_rate": 1e-3})
    assert Membership().reconstruct(others_first, torch.Generator()) != said
    again = Membership().reconstruct(seen, torch.Generator().manual_seed(7))
    assert again == said  # whatever was made before, and whatever stream it is given


@pytest.mark.slow
def test_an_answer_does_not_hang_on_who_was_asked_about_before() -> None:
    members, others, outsiders, near = everyone()
    adam = {"algorithm": "fedavg", "optimizer": "adamw", "learning_rate": 1e-4,
            "mini_batch_size": 4}  # fmt: skip
    first = observed(members, near.and_(members).and_(outsiders), **adam)
    second = observed(others, outsiders.and_(others), **adam)  # of other lengths in each batch
    _LAST.clear()
    alone = Membership().reconstruct(second, torch.Generator())
    _LAST.clear()
    Membership().reconstruct(first, torch.Generator())
    assert Membership().reconstruct(second, torch.Generator()) == alone


@pytest.mark.slow
def test_a_little_noise_on_the_update_does_not_blind_it() -> None:
    members, others, outsiders, _ = everyone()
    seen = observed(members, members.and_(others).and_(outsiders))
    chance = torch.Generator().manual_seed(4)
    noisy = {
        name: tensor + 1e-2 * tensor.std() * torch.randn(tensor.shape, generator=chance)
        for name, tensor in seen.update.tensors.items()
    }
    seen = replace(seen, update=replace(seen.update, tensors=noisy))
    said = Membership().reconstruct(seen, torch.Generator())
    assert not said.diagnostics["exact"]  # residuals would be above the limit, all of them
    assert sum(said.members[:MEMBERS]) > MEMBERS / 2 > sum(said.members[MEMBERS:])


@pytest.mark.slow
def test_what_the_wire_rounds_is_rehearsed() -> None:
    members, others, outsiders, _ = everyone()
    seen = observed(members, members.and_(others).and_(outsiders), wire_dtype="float16")
    rounded = {name: tensor.half() for name, tensor in seen.update.tensors.items()}
    seen = replace(seen, update=replace(seen.update, tensors=rounded))
    said = Membership().reconstruct(seen, torch.Generator())
    assert sum(said.members[:MEMBERS]) > MEMBERS / 2 > sum(said.members[MEMBERS:])


@pytest.mark.slow
def test_public_texts_of_another_kind_are_noticed() -> None:
    model, _ = world()
    members, others, outsiders, _ = everyone()
    seen = observed(
        members, members.and_(others).and_(outsiders),
        algorithm="fedavg", optimizer="adamw", learning_rate=1e-4, mini_batch_size=4,
    )  # fmt: skip
    assert not Membership().reconstruct(seen, torch.Generator()).diagnostics["unlike"]
    few = random_texts(model, (40,) * PUBLIC, seed=9)  # long ones
    public = Texts(sequences=tuple(few), labels=tuple(row % 2 for row in range(PUBLIC)))
    seen = replace(seen, knowledge=replace(seen.knowledge, public=public))
    assert Membership().reconstruct(seen, torch.Generator()).diagnostics["unlike"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"candidates": None}, "grant knowledge.candidates"),
        ({"public": None}, "grant knowledge.candidates and knowledge.public"),
        ({"public": Texts(sequences=((5, 6),) * 59, labels=(0,) * 59)}, "at least 60 .* got 59"),
    ],
)
def test_what_it_cannot_do_without(change: dict[str, Any], line: str) -> None:
    members, *_ = everyone()
    seen = observed(members, members)
    seen = replace(seen, knowledge=replace(seen.knowledge, **change))
    with pytest.raises(UnsupportedObservation, match=line):
        Membership().reconstruct(seen, torch.Generator())


def test_an_update_of_zeros_says_nothing() -> None:
    members, *_ = everyone()
    seen = observed(members, members)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in seen.update.tensors.items()}
    with pytest.raises(UnsupportedObservation, match="zeros alone"):
        Membership().reconstruct(
            replace(seen, update=replace(seen.update, tensors=zeros)), torch.Generator()
        )


def test_the_threshold_is_positive() -> None:
    with pytest.raises(ValueError, match="threshold must be > 0, got 0"):
        Membership(threshold=0.0)
