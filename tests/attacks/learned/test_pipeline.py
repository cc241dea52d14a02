"""What defenses do to updates, against the defenses themselves, whose words say it."""

import dataclasses

import pytest
import torch
from torch import Tensor

from attacks.learned import Pipeline
from attacks.learned.pipeline import signs, some
from defenses import DEFENSES
from fedsim.effects import Clips, Effect, Noises, Rescales, Rounds, Signs, Truncates, Zeroes
from fedsim.errors import UnsupportedObservation


def update() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "a": torch.randn(13, 7, generator=generator),
        "b": 0.1 * torch.randn(17, 11, generator=generator),
        "c": torch.randn(5, generator=generator),
    }


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("topk", {"fraction": 0.1}),
        ("sign", {}),
        ("quantize", {"dtype": "int8"}),
        ("quantize", {"dtype": "int4"}),
        ("quantize", {"dtype": "bfloat16"}),
        ("truncated-svd", {"rank": 2}),
        ("gaussian", {"clip": 0.5, "noise_multiplier": 0.0}),
    ],
)
def test_what_is_not_by_chance_is_what_the_defense_sends(
    name: str, settings: dict[str, object]
) -> None:
    defense = DEFENSES[name](**settings)
    wanted = defense.protect(update(), torch.Generator())
    got = Pipeline(defense.effects())(update(), torch.Generator())
    for part, tensor in wanted.items():
        assert torch.allclose(got[part], tensor, atol=1e-6 if name != "truncated-svd" else 1e-3), (
            part
        )


def test_noise_is_in_units_of_the_norm_clipped_to() -> None:
    zeros = {"a": torch.zeros(200, 200)}
    pipeline = Pipeline((Clips(norm=0.5), Noises(multiplier=0.2)))
    assert pipeline.noise == pytest.approx(0.1)
    assert pipeline(zeros, torch.Generator())["a"].std() == pytest.approx(0.1, rel=0.02)


def test_a_random_mask_keeps_a_share_and_divides_by_it() -> None:
    ones = {"a": torch.ones(300, 100)}
    sent = Pipeline((Zeroes(kept=0.25), Rescales(divisor=0.25)))(ones, torch.Generator())["a"]
    assert set(sent.unique().tolist()) == {0.0, 4.0}
    assert sent.mean() == pytest.approx(1.0, abs=0.03)
    assert some(ones, 1.0, torch.Generator())["a"].all()


def test_a_zero_has_either_sign() -> None:
    sent = signs(torch.cat([torch.zeros(1000), torch.ones(1000)]), torch.Generator())
    assert sent.abs().unique().tolist() == [0.5] and (sent[1000:] > 0).all()
    assert 400 < (sent[:1000] > 0).sum() < 600


def test_nothing_is_changed_in_place() -> None:
    given = update()
    effects: tuple[Effect, ...] = (
        Clips(norm=1.0), Noises(multiplier=0.1), Zeroes(kept=0.5), Rounds(bits=8), Signs(),
        Truncates(rank=1),
    )  # fmt: skip
    Pipeline(effects)(given, torch.Generator())
    assert all(torch.equal(tensor, update()[name]) for name, tensor in given.items())


@pytest.mark.parametrize("effect", [Clips(), Noises(), Rescales(), Rounds(), Truncates(), Zeroes()])
def test_an_effect_of_untold_size_is_refused(effect: Effect) -> None:
    (field,) = (f.name for f in dataclasses.fields(effect) if f.name != "each")
    with pytest.raises(UnsupportedObservation, match=f"its {field} is not told"):
        Pipeline((effect,))


def test_noise_over_no_known_norm_is_refused() -> None:
    with pytest.raises(UnsupportedObservation, match="in units of a norm that is not told"):
        Pipeline((Noises(multiplier=1.0),))


def test_examples_clipped_after_something_else_are_refused() -> None:
    with pytest.raises(UnsupportedObservation, match="clipped after something else"):
        Pipeline((Signs(), Clips(norm=1.0, each=True)))
