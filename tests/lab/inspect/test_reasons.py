"""Each way of hiding is named, it alone, by the captures of a project that hides so.

The oracle is the change that each test makes to one and the same project: plain steps of SGD, of
which nothing hides anything.
"""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedsim.lab.inspect import Inspection, inspect_captures
from fedsim.lab.terminal.inspect import inspection_lines
from tests.lab.run.projects import adapters, capture, classifier, lora, named, saved

pytestmark = pytest.mark.slow  # projects that train

Change = Callable[[Tensor, torch.Generator], Tensor]
REASONS = ("Adam's steps", "normal noise", "signs alone", "8 bits", "left out", "NaN")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "gpt2", "gpt2-tiny")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, gpt2: str) -> Path:
    return capture(tmp_path_factory.mktemp("plain") / "captures", gpt2, classifier, named)


def named_in(found: Inspection) -> list[str]:
    """The reasons that an inspection gives, each capture's the same."""
    assert set(found.hidden.values()) <= {found.looked}
    return [reason for reason in REASONS if any(reason in said for said in found.hidden)]


def eight_bits(delta: Tensor, generator: torch.Generator) -> Tensor:
    step = delta.abs().max().clamp_min(1e-30) / 127
    rounded: Tensor = (delta / step).round() * step
    return rounded


def loudest(delta: Tensor, generator: torch.Generator) -> Tensor:
    least = delta.abs().flatten().sort().values[int(0.99 * (delta.numel() - 1))]
    return delta * (delta.abs() > least)


def noised(delta: Tensor, generator: torch.Generator) -> Tensor:
    """Noise that is far louder than the gradient in all entries."""
    noise = torch.randn(delta.shape, generator=generator)
    added: Tensor = delta + delta.norm() * noise / 10
    return added


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda delta, _: delta, None),
        (lambda delta, _: 1e-7 * delta, None),
        (lambda delta, _: delta.sign() * 1e-3, "signs alone"),
        (eight_bits, "8 bits"),
        (loudest, "left out"),
        (noised, "normal noise"),
        (lambda delta, _: delta / 0, "NaN"),
    ],
)
def test_what_was_done_to_an_update_is_named_and_nothing_else(
    tmp_path: Path, plain: Path, change: Change, reason: str | None
) -> None:
    root = tmp_path / "captures"
    shutil.copytree(plain, root)
    generator = torch.Generator().manual_seed(1)
    for path in sorted(root.rglob("update.safetensors")):
        tensors = load_file(path)
        save_file({name: change(t, generator) for name, t in sorted(tensors.items())}, path)
    assert named_in(inspect_captures(root)) == ([reason] if reason else [])


@pytest.mark.parametrize("state", [named, adapters])
def test_steps_of_adam_are_named_and_nothing_else(
    tmp_path: Path, gpt2: str, state: Callable[..., object]
) -> None:
    options: dict[str, Any] = {
        "r": 16,
        "lora_alpha": 32,
        "target_modules": ["c_attn"],
        "fan_in_fan_out": True,
    }
    build = functools.partial(lora, **options) if state is adapters else classifier
    root = capture(tmp_path / "captures", gpt2, build, state, optimizer="adamw", rate=1e-3)  # type: ignore[arg-type]
    assert named_in(inspect_captures(root)) == ["Adam's steps"]
    shown = "\n".join(inspection_lines(inspect_captures(root).as_dict()))
    assert "What shows: no inputs: steps of Adam are no sums of gradients" in shown
    assert "training.optimizer=adamw" in shown  # in the command to run next


def test_more_tokens_than_the_rank_are_named_and_nothing_else(tmp_path: Path, gpt2: str) -> None:
    """Some 20 inputs of a client, and adapters of rank 4: a span that holds everything."""
    build = functools.partial(
        lora, r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True
    )
    found = inspect_captures(capture(tmp_path / "captures", gpt2, build, adapters))
    assert named_in(found) == [] and found.filled == found.looked == 2
    shown = "\n".join(inspection_lines(found.as_dict()))
    assert "in 2 of 2 all are filled, so that dager cannot read" in shown
