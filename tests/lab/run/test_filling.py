"""More inputs than LoRA's rank fill its B: by algebra, of B's gradient, a sum over inputs."""

import pytest
import torch

from fedsim.lab.run.filling import directions, filled
from tests.lab.run.adapted import moved

NAME = "q.lora_B.weight"


@pytest.mark.parametrize("rank", [4, 8, 32])
@pytest.mark.parametrize("kind", ["gradient", "delta"])
def test_as_many_inputs_as_the_rank_fill_it_and_fewer_do_not(rank: int, kind: str) -> None:
    sent = {NAME: torch.zeros(96, rank)}
    for inputs in (1, rank // 2, rank - 1, rank + 3, 5 * rank):
        assert filled({NAME: moved(inputs, rank)}, sent, kind) == (inputs > rank), inputs


@pytest.mark.parametrize("wire", [torch.float32, torch.bfloat16, torch.float16])
def test_what_a_short_wire_rounds_is_no_input(wire: torch.dtype) -> None:
    """In a later round B is no longer zero, and what it moved by is off by its own rounding."""
    before = torch.randn(96, 8, generator=torch.Generator().manual_seed(2)).to(wire).float()
    for inputs, full in ((3, False), (40, True)):
        after = (before + 30 * moved(inputs, 8)).to(wire).float()
        assert filled({NAME: after - before}, {NAME: before}, "delta") == full


def test_block_0_alone_is_judged_whatever_stands_beside_it() -> None:
    """A pooler's adapter has no number and few inputs; a later block has many."""
    sent = {f"{name}.lora_B.weight": torch.zeros(96, 8) for name in ("pooler", "h.0.q", "h.1.q")}
    for inputs, full in ((40, True), (3, False)):
        update = dict(zip(sent, (moved(2, 8), moved(inputs, 8), moved(40, 8)), strict=True))
        assert filled(update, sent, "delta") == full
    listed = {NAME: moved(40, 8), "k.lora_B.weight": moved(3, 8)}  # one of block 0's shows its end
    assert not filled(listed, {name: torch.zeros(96, 8) for name in listed}, "delta")


def spectrum(values: list[float]) -> torch.Tensor:
    """B (96, R) of such singular values, in float64."""
    generator = torch.Generator().manual_seed(3)
    sides = [torch.randn(n, len(values), generator=generator).double() for n in (96, len(values))]
    left, right = (torch.linalg.qr(side).Q for side in sides)
    made: torch.Tensor = left @ torch.diag(torch.tensor(values).double()) @ right.T
    return made


@pytest.mark.parametrize(("times", "inputs"), [(20, 4), (40, 5)])
def test_an_input_is_what_is_thirty_times_louder_than_rounding(times: float, inputs: int) -> None:
    """Rounding's own singular values reach half a unit of B's root mean square, times the sum of
    the roots of its sides (random matrices: Vershynin, arXiv:1011.3027, theorem 5.32).
    """
    noise = (1 / (96 * 5)) ** 0.5 * 2.0**-24 * (96**0.5 + 5**0.5)
    update = spectrum([1.0, 3e-2, 1e-3, 2e-5, times * noise]).float()  # no gap of a hundred
    assert directions(update, update) == inputs
    sent = {NAME: torch.zeros(96, 5)}
    assert filled({NAME: update}, sent, "gradient") == (inputs == 5)


@pytest.mark.parametrize(("gap", "inputs"), [(70, 4), (140, 2)])
def test_a_gap_of_a_hundred_ends_them_however_loud_what_follows(gap: float, inputs: int) -> None:
    update = spectrum([1.0, 0.5, 0.5 / gap, 0.4 / gap]).float()
    assert directions(update, update) == inputs
    assert filled({NAME: update}, {NAME: torch.zeros(96, 4)}, "gradient") == (inputs == 4)


def test_of_whole_weights_nothing_is_said() -> None:
    assert not filled({"q.weight": moved(40, 8)}, {}, "gradient")
    assert not filled({NAME: torch.zeros(96, 8)}, {}, "delta")
