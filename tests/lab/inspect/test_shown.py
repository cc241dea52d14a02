"""How many inputs show, by algebra: of updates that are sums over as many inputs as we say."""

import pytest
import torch
from torch import Tensor

from fedsim.captures import Captured
from fedsim.lab.inspect.parts import find_parts
from fedsim.lab.inspect.shown import InputsShown, shown_inputs
from fedsim.lab.run.looks import looks_of
from fedsim.messages import Broadcast, Update
from fedsim.models.shapes import Shapes
from tests.lab.run.adapted import moved

UP, DOWN = (f"base_model.model.h.0.attn.c_attn.lora_{side}.weight" for side in "BA")
MAP = "model.layers.0.self_attn.{}_proj.weight"


def shown(
    update: dict[str, Tensor], sent: dict[str, Tensor], kind: str = "gradient"
) -> InputsShown:
    shapes = Shapes.of({name: tuple(t.shape) for name, t in sent.items()})
    captured = Captured(
        round=1,
        client=0,
        broadcast=Broadcast(round=1, parameters=sent),
        update=Update(tensors=update, kind=kind, num_examples=1),  # type: ignore[arg-type]
        model={},
    )
    parts = find_parts(shapes, {name for name, t in update.items() if t.any()})
    found = shown_inputs(captured, shapes, parts, looks_of(update, sent, kind))
    assert found is not None
    return found


def adapter(inputs: int, rank: int) -> InputsShown:
    """B (96, R) alone moved, from zero, as it does in a first step."""
    sent = {DOWN: torch.ones(rank, 64), UP: torch.zeros(96, rank)}
    return shown({DOWN: torch.zeros(rank, 64), UP: moved(inputs, rank)}, sent)


@pytest.mark.parametrize(("rank", "most"), [(8, 6), (16, 13), (32, 27)])
def test_as_many_inputs_as_there_are_and_one_word_of_them(rank: int, most: int) -> None:
    """An eighth of the dimensions, and one, are kept for noise: dager's own spare."""
    for inputs in (1, rank // 2, most):
        assert adapter(inputs, rank) == InputsShown(rank=inputs), inputs
    for inputs in range(most + 1, rank):
        assert adapter(inputs, rank) == InputsShown(rank=inputs, crowded=True), inputs
    for inputs in (rank, rank + 3, 5 * rank):
        assert adapter(inputs, rank) == InputsShown(rank=rank, filled=True), inputs


def maps(inputs: int, noise: float = 0.0) -> dict[str, Tensor]:
    """Queries, keys and values (96, 96) of as many inputs, each weaker than the last."""
    generator = torch.Generator().manual_seed(1)
    seen = 0.98 ** torch.arange(inputs)[:, None] * torch.randn(inputs, 96, generator=generator)
    told = [torch.randn(96, inputs, generator=generator) for _ in "qkv"]
    made = {MAP.format(part): one @ seen for part, one in zip("qkv", told, strict=True)}
    later = {name.replace(".0.", ".1."): tensor for name, tensor in made.items()}
    return {
        name: tensor + noise * tensor.norm() * torch.randn(96, 96, generator=generator) / 96
        for name, tensor in (made | later).items()
    }


@pytest.mark.parametrize(
    ("inputs", "noise", "wanted"),
    [
        (40, 0.0, InputsShown(rank=40)),
        (83, 0.0, InputsShown(rank=83)),  # 96 less an eighth, less one
        (84, 0.0, InputsShown(rank=84, crowded=True)),
        (95, 0.0, InputsShown(rank=95, crowded=True)),
        (300, 0.0, InputsShown(rank=96, filled=True)),
        (40, 3.0, InputsShown(rank=0, blurred=True)),
    ],
)
def test_of_whole_weights_one_word_too(inputs: int, noise: float, wanted: InputsShown) -> None:
    update = maps(inputs, noise)
    assert shown(update, {name: torch.ones(96, 96) for name in update}) == wanted


@pytest.mark.parametrize("rate", [3e-4, 1e-5])
def test_rounding_to_16_bits_fills_nothing_with_inputs(rate: float) -> None:
    """Steps of far less than a weight's last bit: what is left of them is of any direction."""
    update, generator = maps(20), torch.Generator().manual_seed(2)
    sent = {name: torch.randn(96, 96, generator=generator).bfloat16() for name in update}
    after = {name: (t.float() + rate * update[name]).bfloat16() for name, t in sent.items()}
    delta = {name: after[name].float() - t.float() for name, t in sent.items()}
    found = shown(delta, {name: t.float() for name, t in sent.items()}, "delta")
    assert found.blurred and not found.filled and not found.crowded
    assert looks_of(delta, {n: t.float() for n, t in sent.items()}, "delta").short
    assert shown({n: rate * t for n, t in update.items()}, sent, "delta") == InputsShown(rank=20)


@pytest.mark.parametrize("of", [maps, lambda inputs: {UP: moved(inputs, 64)}])
def test_an_update_has_no_size(of: object) -> None:
    """Finite float64 that float32 has no number for: dager reads it as any other."""
    update = {name: t.double() for name, t in of(20).items()}  # type: ignore[operator]
    huge = {name: t * (1e300 / t.abs().max()) for name, t in update.items()}
    sent = {name: torch.zeros_like(t) for name, t in update.items()}
    assert shown(huge, sent, "delta") == shown(update, sent, "delta") == InputsShown(rank=20)
    assert looks_of(huge, sent, "delta") == pytest.approx(looks_of(update, sent, "delta"))


def test_the_readers_tell_and_no_array_before_them() -> None:
    """An output map's adapter comes first in a file, and reads another thing."""
    names = ("attention.output.dense", "attention.self.query", "attention.self.value")
    sent = {f"bert.layer.0.{n}.lora_{x}.weight": torch.zeros(96, 64) for n in names for x in "B"}
    update = dict(zip(sent, (moved(40, 64), moved(7, 64), moved(9, 64)), strict=True))
    assert shown(update, sent) == InputsShown(rank=9)  # the one that shows most
