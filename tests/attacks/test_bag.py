"""The bag as an attack: its rows by step, and an update that shows nothing."""

from dataclasses import replace

import torch

from attacks import Bag
from attacks.bag import by_step
from attacks.reads import Dated
from tests.attacks.conftest import Look
from tests.conftest import Adapt


def test_types_stand_by_step_and_position() -> None:
    dated = Dated(steps=2, step={5: 2, 7: 1, 9: 2}, place={5: 3, 9: 1})
    assert by_step((4, 5, 7, 9), dated) == ((4,), (7,), (9, 5))
    assert by_step((4, 5), Dated()) == ((4, 5),)
    assert by_step((), dated) == ()


def test_it_says_types_and_where_it_has_them_from(adapt: Adapt, look: Look) -> None:
    model = adapt("bert-tiny")
    batch = look(model, (9, 14), granted=())
    guess = Bag().reconstruct(batch.observation, torch.Generator())
    (found,) = guess.sequences
    assert set(found) == {token for text in batch.sequences for token in text}
    assert Bag().reads(model) == "types"
    assert guess.diagnostics["types"] == len(found) and not guess.diagnostics["tied"]


def test_zeros_say_nothing(adapt: Adapt, look: Look) -> None:
    seen = look(adapt("bert-tiny"), (9,), granted=()).observation
    zeros = {name: torch.zeros_like(t) for name, t in seen.update.tensors.items()}
    shown = replace(seen, update=replace(seen.update, tensors=zeros))
    assert Bag().reconstruct(shown, torch.Generator()).sequences == ()
