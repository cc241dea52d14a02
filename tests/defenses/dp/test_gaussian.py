"""The whole update clipped and noised; central DP, which protects nobody from the server."""

import math
from typing import Any

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from defenses import CentralDP, Gaussian
from defenses.base import Here, Memory, Setting
from fedsim.errors import BadInput, DefenseFailed
from fedsim.training import TrainingSettings


def update(scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (200, 90), "b": (70,), "c": ()}
    return {k: scale * torch.randn(shape, generator=generator) for k, shape in shapes.items()}


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def here(memory: Memory) -> Here:
    return Here(round=1, held=9, expected=4, training=TrainingSettings(), memory=memory,
                generator=seeded())  # fmt: skip


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_update_is_clipped_and_noised(scale: float) -> None:
    defense, raw = Gaussian(noise_multiplier=2.0, clip=0.5), update(scale)
    sent = defense.protect(raw, seeded())
    size = flat(raw).norm()
    noise = flat(sent) - flat(raw) * min(1.0, 0.5 / size)
    assert noise.std().item() == pytest.approx(1.0, rel=0.02)
    figures = defense.audit(raw, sent)
    assert figures["clip_factor"] == pytest.approx(min(1.0, float(0.5 / size)), rel=1e-5)
    assert figures["noise_std"] == pytest.approx(1.0, rel=0.02)


def test_without_noise_it_only_clips() -> None:
    sent = Gaussian(noise_multiplier=0.0, clip=0.5).protect(update(), seeded())
    assert flat(sent).norm().item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_other_noise_than_claimed_fails(factor: float) -> None:
    sent = Gaussian(noise_multiplier=factor).protect(update(), seeded())
    with pytest.raises(DefenseFailed, match="gaussian: the noise on the wire"):
        Gaussian(noise_multiplier=1.0).audit(update(), sent)


def test_a_client_is_told_from_its_opposite_so_mu_is_twice_one_over_z() -> None:
    defense, memory = Gaussian(noise_multiplier=4.0), Memory()
    for _ in range(3):
        memory = defense.begin(here(memory)).keep()
    spent = defense.spent([Memory(), memory])
    assert spent is not None and spent.unit == "client"
    assert spent.adjacency.startswith("replaced: all that one client holds")
    # Balle & Wang, theorem 8: the delta of the Gaussian mechanism at an epsilon, with mu = 2 / z a
    # round and sqrt(3) mu in three.
    mu, epsilon = 2.0 * math.sqrt(3) / 4.0, spent.epsilon
    delta = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    assert delta == pytest.approx(1e-5, rel=1e-4)
    # What it claims is seen: two clients whose clipped updates are opposite, along that direction.
    update = {"a": torch.zeros(1000)}
    update["a"][0] = 7.0
    other = {"a": -update["a"]}
    drawn = [
        [float(defense.protect(tensors, seeded(place + 50 * sign))["a"][0]) for place in range(400)]
        for sign, tensors in enumerate((update, other))
    ]
    gap = sum(drawn[0]) / 400 - sum(drawn[1]) / 400
    assert gap / 4.0 == pytest.approx(2.0 / 4.0, abs=0.36)  # five standard errors


def test_no_noise_and_no_round_give_no_guarantee_and_no_loss_is_told() -> None:
    kept = Gaussian().begin(here(Memory())).keep()
    assert Gaussian().spent([kept]) is not None
    assert Gaussian(noise_multiplier=0.0).spent([kept]) is None
    assert Gaussian(noise_multiplier=1e-200).spent([kept]) is None
    assert Gaussian().spent([]) is None and Gaussian().spent([Memory()]) is None
    assert Gaussian().report({"train_loss": 1.0}) == {}


@pytest.mark.parametrize("kind", [Gaussian, CentralDP])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"noise_multiplier": -1.0}, "noise_multiplier must be >= 0, got -1.0"),
        ({"clip": 0.0}, "clip must be > 0, got 0.0"),
    ],
)
def test_bad_parameters_are_refused(kind: Any, fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def setting(*defenses: Any) -> Setting:
    return Setting(adapter=None, training=TrainingSettings(), batch_size=4, held=(3, 3, 3),  # type: ignore[arg-type]
                   clients_per_round=3, rounds=1, defenses=defenses)  # fmt: skip


def test_a_delta_beyond_the_clients_is_refused() -> None:
    with pytest.raises(ValueError, match=r"delta must be in \(0, 1\), got 0.0"):
        Gaussian(delta=0.0)
    with pytest.raises(BadInput, match="delta must be below 1 / 3 clients"):
        Gaussian(delta=0.4).check(setting())


def test_central_dp_claims_nothing_and_can_be_there_once() -> None:
    defense = CentralDP(noise_multiplier=0.3, clip=2.0)
    assert defense.spent([defense.begin(here(Memory())).keep()]) is None
    assert defense.central() == {"noise_multiplier": 0.3, "clipping_norm": 2.0}
    with pytest.raises(BadInput, match="central-dp can be there once"):
        defense.check(setting(defense, defense))
