"""What compression takes on the wire, and its audit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from defenses import Defense, Gaussian, Quantize, RandomMask, Sign, TopK, TruncatedSVD
from defenses.encoding import Encoding, index_bits, plain
from fedsim.errors import DefenseFailed
from tests.defenses.updates import entries, sent, update

DEFENSES = [
    TopK(fraction=0.1),
    TopK(fraction=0.1, per="tensor"),
    RandomMask(fraction=0.4),
    Sign(),
    *(Quantize(dtype=d, rounding=r) for d in ("float16", "bfloat16", "int8", "int4")
      for r in ("nearest", "stochastic")),
    TruncatedSVD(rank=2),
]  # fmt: skip


@pytest.mark.parametrize("defense", DEFENSES, ids=repr)
def test_an_honest_update_passes_and_another_does_not(defense: Defense) -> None:
    raw = update()
    good = sent(defense, raw)
    figures = defense.audit(raw, good)
    change = [a - b for a, b in zip(entries(good), entries(raw), strict=True)]
    assert figures["change"] == pytest.approx(
        np.linalg.norm(change) / np.linalg.norm(entries(raw)), rel=1e-5
    )
    with pytest.raises(DefenseFailed, match="sends nothing"):
        defense.audit(raw, {name: torch.zeros_like(tensor) for name, tensor in good.items()})
    if not isinstance(defense, Quantize):  # float32 is within the error of a float
        with pytest.raises(DefenseFailed, match=r"sends|kept"):
            defense.audit(raw, raw)
    with pytest.raises(DefenseFailed, match=r"sends|kept"):
        defense.audit(raw, {**good, "b.weight": good["b.weight"].flip(0)})


def test_a_mask_of_the_smallest_floats_there_are_passes() -> None:
    raw = {"w": torch.arange(1.0, 400.0) * 1.4e-45}
    assert 0 < RandomMask(fraction=0.3).audit(raw, sent(RandomMask(fraction=0.3), raw))["density"]


def test_the_audit_says_what_each_defense_is_measured_by() -> None:
    raw = {"w": torch.tensor([4.0, -3.0, 0.0, 0.01, 2.0, -1.0, 0.5, 0.25, 1.5, 3.5])}
    figures = TopK(fraction=0.2).audit(raw, sent(TopK(fraction=0.2), raw))
    assert figures["density"] == pytest.approx(0.2)
    assert Sign().audit(raw, sent(Sign(), raw))["chance"] == pytest.approx(0.1)
    lost = Quantize(dtype="int8").audit(raw, sent(Quantize(dtype="int8"), raw))["lost"]
    assert lost == pytest.approx(1 / 9)  # 0.01 is less than half of 4 / 127
    mask = RandomMask(fraction=0.5)
    big = {"w": torch.ones(1000)}
    assert mask.audit(big, sent(mask, big))["density"] == pytest.approx(0.5, abs=0.08)


def test_each_claim_that_is_broken_is_named() -> None:
    raw = update()
    with pytest.raises(DefenseFailed, match="sends 149 of 149 entries, not 15"):
        TopK(fraction=0.1).audit(raw, raw)
    with pytest.raises(DefenseFailed, match="sends 14 of 149 entries, not 15"):
        TopK(fraction=0.1).audit(raw, sent(TopK(fraction=14 / 149), raw))
    with pytest.raises(DefenseFailed, match="sends 2 of 7 entries, not 1"):
        TopK(fraction=0.1, per="tensor").audit(
            raw,
            {
                **sent(TopK(fraction=0.1, per="tensor"), raw),
                "b.bias": sent(TopK(fraction=0.3), {"b.bias": raw["b.bias"]})["b.bias"],
            },
        )
    with pytest.raises(DefenseFailed, match="entries that the update does not have"):
        top = sent(TopK(fraction=0.1), raw)
        TopK(fraction=0.1).audit(raw, {k: 2 * v for k, v in top.items()})
    with pytest.raises(DefenseFailed, match="sends smaller entries than it leaves"):
        least = np.sort(np.abs(entries(raw)))[14]
        small = {
            name: torch.where(tensor.abs() <= least, tensor, 0.0) for name, tensor in raw.items()
        }
        TopK(fraction=0.1).audit(raw, small)
    with pytest.raises(DefenseFailed, match="kept 149 of 149 entries"):
        RandomMask(fraction=0.4).audit(raw, raw)
    with pytest.raises(DefenseFailed, match="entries that are not the update's"):
        masked = sent(RandomMask(fraction=0.4), raw)
        RandomMask(fraction=0.4).audit(raw, {k: 0.4 * v for k, v in masked.items()})
    with pytest.raises(DefenseFailed, match="entries that are not the update's"):
        tiny = {name: 1e-9 * tensor for name, tensor in raw.items()}
        masked = sent(RandomMask(fraction=0.4), tiny)
        RandomMask(fraction=0.4).audit(tiny, {k: -v for k, v in masked.items()})
    with pytest.raises(DefenseFailed, match=r"more of 'b.weight' than its signs"):
        Sign().audit(raw, raw)
    with pytest.raises(DefenseFailed, match=r"'b.weight' with an error of"):
        Quantize(dtype="int8").audit(raw, sent(Quantize(dtype="int4"), raw))
    with pytest.raises(DefenseFailed, match="too many levels"):
        Quantize(dtype="int4").audit(
            {"w": torch.linspace(-1.0, 1.0, 99)}, {"w": torch.linspace(-1.0, 1.0, 99)}
        )
    with pytest.raises(DefenseFailed, match=r"'b.weight' at more than rank 2"):
        TruncatedSVD(rank=2).audit(raw, raw)
    with pytest.raises(DefenseFailed, match="less well than rank 2 can"):
        low = sent(TruncatedSVD(rank=2), raw)
        TruncatedSVD(rank=2).audit(raw, {**low, "b.weight": 0.5 * low["b.weight"]})


# What it takes on the wire


def test_the_size_of_each_encoding_by_hand() -> None:
    raw = update()
    whole = plain(raw)
    assert (whole.entries, whole.bytes) == (149, 4 * 149)
    sizes = {
        TopK(fraction=0.1): 15 * 32 + 15 * 8,  # 15 values, and 8 bits for a place among 149
        TopK(fraction=0.5): 74 * 32 + 149,  # a bit for each place is shorter
        TopK(fraction=0.1, per="tensor"): (8 + 1 + 6) * 32 + 15 * 8,
        RandomMask(fraction=0.1): 15 * 32 + 64,
        Sign(): 149 + 3 * 32,
        Quantize(dtype="float16"): 149 * 16,
        Quantize(dtype="int8"): 149 * 8 + 3 * 32,
        Quantize(dtype="int4"): 149 * 4 + 3 * 32,
        TruncatedSVD(rank=2): (2 * 18 + 7 + 2 * 18) * 32,
    }
    for defense, bits in sizes.items():
        assert defense.encoded(raw, whole).bytes == math.ceil(bits / 8), defense


def test_encodings_compose_in_order() -> None:
    raw = update()
    both = plain(raw)
    for defense in (TopK(fraction=0.1), Quantize(dtype="int8")):
        both = defense.encoded(raw, both)
    assert both == Encoding(entries=149, values=15, value_bits=8, extra_bits=15 * 8 + 3 * 32)
    assert replace(both, extra_bits=3).bytes == 16  # 123 bits
    assert plain({"w": torch.zeros(4, dtype=torch.float16)}).bytes == 8
    assert index_bits(3, 1000) == 30 and index_bits(500, 1000) == 1000


@pytest.mark.parametrize(
    ("defenses", "bits"),
    [
        # 15 values and as many places of 8 bits; the factors of rank 2 are 79 numbers, so longer.
        ((TopK(fraction=0.1), TruncatedSVD(rank=2)), 15 * 32 + 15 * 8),
        ((TopK(fraction=0.9), TruncatedSVD(rank=2)), (2 * 18 + 7 + 2 * 18) * 32),
        ((TruncatedSVD(rank=2), TopK(fraction=0.1)), 15 * 32 + 15 * 8),
        ((TopK(fraction=0.1), Sign()), 149 + 3 * 32),
        ((RandomMask(fraction=0.1), Sign()), 149 + 3 * 32),
        ((TopK(fraction=0.1), Gaussian()), 149 * 32),
        ((Quantize(dtype="int8"), Gaussian()), 149 * 32),
        ((Gaussian(), Quantize(dtype="int8")), 149 * 8 + 3 * 32),
        ((Sign(), Gaussian(), TopK(fraction=0.1)), 15 * 32 + 15 * 8),
    ],
    ids=repr,
)
def test_the_size_of_a_list_is_of_what_it_sends(defenses: tuple[Defense, ...], bits: int) -> None:
    raw = update()
    encoding = plain(raw)
    for defense in defenses:
        encoding = defense.encoded(raw, encoding)
    assert encoding.bytes == math.ceil(bits / 8)


def test_less_than_nothing_cannot_be_sent() -> None:
    with pytest.raises(AssertionError):
        plain(update()).kept(-1, 0)
