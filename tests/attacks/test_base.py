"""What every attack is spared: malformed updates in, impossible ids out."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from attacks import Attack
from fedsim.errors import BadInput, UnsupportedObservation
from fedsim.messages import Observation, Reconstruction
from fedsim.types import Tokens
from tests.conftest import Adapt, Observe


@dataclass(frozen=True, kw_only=True)
class Fixed(Attack):
    """Guesses what it was told to."""

    guess: tuple[Tokens, ...] = ()

    families = ("gpt2",)

    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        assert not torch.is_grad_enabled()
        return Reconstruction(sequences=self.guess)


@pytest.fixture
def run(adapt: Adapt, observe: Observe) -> Any:
    model = adapt("gpt2-tiny")
    parameters = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}

    def attack(guess: tuple[Tokens, ...] = (), **update: torch.Tensor) -> Reconstruction:
        tensors = {"a": torch.ones(2, 3), **update}
        observation = observe(model, parameters, tensors)
        return Fixed(guess=guess).reconstruct(observation, torch.Generator())

    return attack


def test_a_guess_comes_back(run: Any) -> None:
    assert run(((3, 4), (2047,))).sequences == ((3, 4), (2047,))
    assert run(()).sequences == ()


def test_an_outsiders_attack_may_name_what_it_is_shown_as_it_likes(
    adapt: Adapt, observe: Observe
) -> None:
    class Theirs(Fixed):
        def _run(self, seen: Observation, draw: torch.Generator) -> Reconstruction:
            token = int(torch.randint(300, (), generator=draw))
            return Reconstruction(sequences=((token, len(seen.update.tensors)),))

    observation = observe(adapt("gpt2-tiny"), {"a": torch.zeros(3)}, {"a": torch.ones(3)})
    wanted = int(torch.randint(300, (), generator=torch.Generator().manual_seed(5)))
    guess = Theirs().reconstruct(observation, torch.Generator().manual_seed(5))
    assert guess.sequences == ((wanted, 1),)


@pytest.mark.parametrize("token", [-1, 2048])
def test_ids_that_are_no_tokens_are_the_attacks_own_slip(run: Any, token: int) -> None:
    with pytest.raises(AssertionError, match=r"Fixed\(.*\) guessed ids outside \[0, 2048\)"):
        run(((3, 4), (5, token)))


@pytest.mark.parametrize("which", ["update", "broadcast"])
def test_changing_what_it_was_shown_is_the_attacks_own_slip(
    adapt: Adapt, observe: Observe, which: str
) -> None:
    class Vandal(Fixed):
        def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
            shown = {
                "update": observation.update.tensors,
                "broadcast": observation.broadcast.parameters,
            }
            shown[which]["a"][0] += 1.0
            return Reconstruction(sequences=())

    observation = observe(adapt("gpt2-tiny"), {"a": torch.zeros(2, 3)}, {"a": torch.ones(2, 3)})
    with pytest.raises(AssertionError, match="changed what it was shown"):
        Vandal().reconstruct(observation, torch.Generator())


def test_part_of_what_was_sent_is_enough(run: Any) -> None:
    assert run(b=torch.ones(4)).sequences == ()


@pytest.mark.parametrize(
    ("name", "tensor", "wanted"),
    [
        ("c", torch.ones(2), "update holds 'c', which was never broadcast"),
        ("b", torch.ones(4, 1), r"update 'b' must have shape \(4,\), got \(4, 1\)"),
        ("b", torch.tensor(1.0), r"update 'b' must have shape \(4,\), got \(\)"),
        ("b", torch.tensor([0.0, 1.0, float("nan"), 0.0]), "'b' holds NaN or infinite values"),
        ("b", torch.full((4,), float("inf")), "'b' holds NaN or infinite values"),
        ("b", torch.full((4,), float("-inf")).half(), "'b' holds NaN or infinite values"),
    ],
)
def test_a_malformed_update_is_refused(
    run: Any, name: str, tensor: torch.Tensor, wanted: str
) -> None:
    with pytest.raises(UnsupportedObservation, match=wanted):
        run(**{name: tensor})


def test_gradients_are_on_again_after_an_attack(run: Any) -> None:
    run()
    assert torch.is_grad_enabled()


def test_an_attack_checks_the_family_before_anything_starts(adapt: Adapt) -> None:
    Fixed().check(adapt("gpt2-tiny"))
    wanted = r"attack fixed fits gpt2 models, but 'builtin:llama-tiny' is a llama model"
    with pytest.raises(BadInput, match=wanted):
        Fixed().check(adapt("llama-tiny"))
