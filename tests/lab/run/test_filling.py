"""More inputs than LoRA's rank fill its B: by algebra, of B's gradient, a sum over inputs."""

import pytest
import torch

from fedsim.lab.run.filling import filled

NAME = "q.lora_B.weight"


def moved(inputs: int, rank: int, seed: int = 1) -> torch.Tensor:
    """B's gradient (K, R) of so many inputs, each seen through A, in float32 as a client has it."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(inputs, rank, generator=generator)
    return (torch.randn(96, inputs, generator=generator) @ seen) / inputs


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


def test_of_whole_weights_nothing_is_said() -> None:
    assert not filled({"q.weight": moved(40, 8)}, {}, "gradient")
    assert not filled({NAME: torch.zeros(96, 8)}, {}, "delta")
