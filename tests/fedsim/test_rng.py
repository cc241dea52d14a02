import hashlib

import numpy as np
import pytest
import torch

from fedsim.rng import Root, Secret, derive, global_stream, stream


# the digests are what `printf '%s' 7/client/3 | sha256sum` prints; a seed is the first 63 bits
@pytest.mark.parametrize(
    ("seed", "name", "digest"),
    [
        (1, (), "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"),
        (7, ("client", 3), "f0cf1981ab993f171e48e9d652e729fef69aae0f86e08cfdaae48503d6b150f1"),
        (
            1,
            ("client", 0, "batch", 2),
            "e54e939dcba3f9470aa6338ddd6c35c6a96a880186b79bd7c79e052ff557fb6c",
        ),
    ],
)
def test_a_seed_is_63_bits_of_sha256_over_the_name(
    seed: int, name: tuple[str | int, ...], digest: str
) -> None:
    bits = bin(int(digest, 16))[2:].zfill(256)
    assert derive(seed, *name) == int(bits[:63], 2)


def draw(generator: torch.Generator) -> list[int]:
    return torch.randint(2**31, (5,), generator=generator).tolist()


def test_streams_are_equal_by_name_whatever_was_drawn_before() -> None:
    names = [("client", 0), ("client", 1), ("round", 1)]
    forward = {name: draw(stream(3, *name)) for name in names}
    torch.rand(11)  # the global generator plays no part
    backward = {name: draw(stream(3, *name)) for name in reversed(names)}
    assert forward == backward


def test_streams_differ_by_name_and_by_seed() -> None:
    names: list[tuple[int, tuple[str | int, ...]]] = [
        (1, ("client", 0)), (1, ("client", 1)), (2, ("client", 0)), (1, ("client",)),
        (1, ("round", 0)),
    ]  # fmt: skip
    assert len({tuple(draw(stream(seed, *name))) for seed, name in names}) == len(names)


def test_a_global_stream_is_the_named_stream_and_is_put_back() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with global_stream(3, "dropout"):
        inside = torch.rand(7)
    assert torch.equal(inside, torch.rand(7, generator=stream(3, "dropout")))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_global_stream_is_put_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), global_stream(3, "dropout"):
        torch.rand(7)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_a_global_stream_inside_another_leaves_the_outer_as_it_was() -> None:
    with global_stream(3, "outer"):
        first = torch.rand(4)
        with global_stream(3, "inner"):
            torch.rand(9)
        second = torch.rand(4)
    expected = torch.rand(8, generator=stream(3, "outer"))  # as if there had been no inner one
    assert torch.equal(torch.cat([first, second]), expected)


# A secret in place of the seed

SECRET = Secret(bytes(range(16)))


def test_streams_of_a_secret_differ_by_name_and_by_secret() -> None:
    roots: list[tuple[Root, str]] = [
        (SECRET, "a"), (SECRET, "b"), (Secret(bytes(16)), "a"), (0, "a"),
        (int.from_bytes(SECRET.value, "big"), "a"),
    ]  # fmt: skip
    assert len({tuple(draw(stream(root, name))) for root, name in roots}) == len(roots)
    assert draw(stream(SECRET, "a")) == draw(stream(Secret(bytes(range(16))), "a"))


def test_a_stream_of_a_secret_has_the_whole_state_from_it() -> None:
    # Torch's generator takes 32 bits of a seed; its 624 words here are those of SHAKE-256.
    text = SECRET.value + b"/client/3/state"
    words = np.frombuffer(hashlib.shake_256(text).digest(4 * 624), dtype="<u4")
    state = stream(SECRET, "client", 3).get_state().numpy()
    assert state[24 : 24 + 8 * 624].view("<u8").tolist() == words.tolist()
    # The second number is the twist of words 1, 2 and 398, tempered (Matsumoto & Nishimura 1998);
    # torch makes 64 bits of two, the lower half of the second one.
    mixed = (int(words[1]) & 0x80000000) | (int(words[2]) & 0x7FFFFFFF)
    y = int(words[398]) ^ (mixed >> 1) ^ (0x9908B0DF if mixed & 1 else 0)
    y ^= y >> 11
    y ^= (y << 7) & 0x9D2C5680
    y ^= (y << 15) & 0xEFC60000
    y ^= y >> 18
    drawn = torch.randint(2**31, (1,), generator=stream(SECRET, "client", 3)).item()
    assert drawn == y % 2**31


def test_a_global_stream_of_a_secret_is_the_named_one_and_is_put_back() -> None:
    before = torch.get_rng_state()
    with global_stream(SECRET, "dropout"):
        inside = torch.rand(7)
    assert torch.equal(inside, torch.rand(7, generator=stream(SECRET, "dropout")))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_secret_is_128_bits_that_nothing_prints() -> None:
    assert Secret.drawn() != Secret.drawn()
    assert repr(SECRET) == "Secret()" and SECRET.value.hex() not in repr(SECRET)
    with pytest.raises(ValueError, match="a secret has 16 bytes, got 15"):
        Secret(bytes(15))
