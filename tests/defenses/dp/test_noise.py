import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy.stats import kstest

from defenses.dp import noise
from defenses.dp.noise import normal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 3), (7, 1, 2)])
def test_it_has_the_shape_that_was_asked_for(shape: tuple[int, ...]) -> None:
    made = normal(torch.Size(shape), seeded())
    assert made.shape == shape and made.dtype == torch.float32


def test_it_is_standard_normal() -> None:
    made = normal(torch.Size((200_000,)), seeded(1)).numpy()
    assert kstest(made, "norm").pvalue > 0.01
    assert abs(made.mean()) < 5 / np.sqrt(len(made))
    assert made.var() == pytest.approx(1.0, abs=5 * np.sqrt(2 / len(made)))
    half = len(made) // 2  # the two numbers of a pair are independent
    assert abs(np.corrcoef(made[:half], made[half:])[0, 1]) < 5 / np.sqrt(half)
    assert abs(np.corrcoef(made[:half] ** 2, made[half:] ** 2)[0, 1]) < 5 / np.sqrt(half)


def test_it_is_box_and_mullers_over_the_ciphers_words() -> None:
    draw = seeded(3)
    key = bytes(torch.randint(256, (32,), dtype=torch.uint8, generator=draw).tolist())
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * 6))
    words = [int.from_bytes(stream[at : at + 8], "little") >> 11 for at in range(0, 48, 8)]
    first, second = ([word / 2**53 for word in part] for part in (words[:3], words[3:]))
    radius = [np.sqrt(-2 * np.log(1 - u)) for u in first]
    expected = [r * np.cos(2 * np.pi * v) for r, v in zip(radius, second, strict=True)]
    expected += [r * np.sin(2 * np.pi * v) for r, v in zip(radius, second, strict=True)]
    made = normal(torch.Size((5,)), seeded(3))
    assert made.tolist() == pytest.approx(expected[:5], rel=1e-6)


def test_many_parts_go_on_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "PART", 10)
    made = normal(torch.Size((77,)), seeded())
    assert len(set(made.tolist())) == 77
    assert torch.equal(made[:20], normal(torch.Size((20,)), seeded()))


def test_the_generator_gives_a_key_and_no_more() -> None:
    draw = seeded()
    normal(torch.Size((1000,)), draw)
    following, other = torch.rand(1, generator=draw), seeded()
    torch.randint(256, (32,), dtype=torch.uint8, generator=other)
    assert torch.equal(following, torch.rand(1, generator=other))
