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
from transformers import AutoTokenizer

from fedsim.lab.inspect import inspect_captures
from tests.lab.inspect.said import FILLED, named_in, shown
from tests.lab.run import projects
from tests.lab.run.projects import adapters, capture, classifier, lora, named, saved

pytestmark = pytest.mark.slow  # projects that train

Change = Callable[[Tensor, torch.Generator], Tensor]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "gpt2", "gpt2-tiny")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "llama", "llama-tiny")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, gpt2: str) -> Path:
    return capture(tmp_path_factory.mktemp("plain") / "captures", gpt2, classifier, named)


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
    found = inspect_captures(root)
    assert named_in(found) == ([reason] if reason else [])
    nothing = "What shows: nothing: there is no number" in shown(found)
    assert nothing == (reason == "NaN")


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
    told = shown(inspect_captures(root))
    assert "What shows: no inputs: steps of Adam are no sums of gradients" in told
    assert "training.optimizer=adamw" in told  # in the command to run next


def test_more_tokens_than_the_rank_are_named_and_nothing_else(tmp_path: Path, gpt2: str) -> None:
    """Some 20 inputs of a client, and adapters of rank 4: a span that holds everything."""
    build = functools.partial(
        lora, r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True
    )
    found = inspect_captures(capture(tmp_path / "captures", gpt2, build, adapters))
    assert named_in(found) == [FILLED] and found.filled == found.looked == 2
    assert "in 2 of 2 all dimensions are filled" in shown(found)


REPEATED = {0: ["a b a a b b a b b a a b a b b"], 1: ["b a b a b b a a b a b b a a b"]}


def test_few_tokens_often_do_not_fill_a_rank_though_later_blocks_do(
    tmp_path: Path, llama: str
) -> None:
    """RoPE's block 0 reads each token once: 4 of 16 differ. Block 1 reads each place, which is more
    than the rank, so ``dager`` names tokens and no text: what it needs is said, not what it reads.
    """
    build = functools.partial(
        lora, task="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj"]
    )
    root = capture(tmp_path / "captures", llama, build, adapters, texts=REPEATED)
    tokens = AutoTokenizer.from_pretrained(llama)(REPEATED[0][0]).input_ids
    assert len(tokens) == 16 and len(set(tokens)) == 4
    found = inspect_captures(root)
    assert found.rank == [4, 4] and not found.filled and not found.hidden
    assert "dager needs at most 6, and in the blocks that follow" in shown(found)
    update = load_file(sorted(root.rglob("update.safetensors"))[0])
    later = [t for n, t in update.items() if "layers.3" in n and "lora_B" in n and t.any()]
    assert any(torch.linalg.matrix_rank(t.double(), rtol=1e-6) == 8 for t in later)


def test_plain_steps_that_float32_loses_of_a_are_no_mask_and_no_quantisation(
    tmp_path: Path, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps of SGD: A moves by less than its own rounding, and B does not."""
    train = projects._train

    def thrice(*given: Any) -> None:
        for _ in range(3):
            train(*given)

    monkeypatch.setattr(projects, "_train", thrice)
    build = functools.partial(
        lora, r=16, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True
    )
    texts = {0: ["The key hangs."], 1: ["A boat sold."]}
    root = capture(tmp_path / "captures", gpt2, build, adapters, texts=texts)
    update = load_file(sorted(root.rglob("update.safetensors"))[0])
    lost = [float((t == 0).float().mean()) for n, t in update.items() if "lora_A" in n]
    assert min(lost) > 0.5  # it would be called top-k
    assert named_in(inspect_captures(root)) == []


def test_weight_decay_fills_a_later_round_and_may_be_why(
    tmp_path: Path, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text has fewer inputs than the rank; torch's own decay moves B in every direction."""
    plain_steps = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", functools.partial(plain_steps, weight_decay=0.1))
    build = functools.partial(
        lora, r=8, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True
    )
    texts = {0: ["The key."], 1: ["A boat."]}
    found = inspect_captures(
        capture(tmp_path / "captures", gpt2, build, adapters, rounds=2, texts=texts)
    )
    assert found.filled == 2  # of the second round, in which B is not zero any more
    assert found.rank == [5, 5, 8, 8]
    assert "in 2 of 4 all dimensions are filled, by inputs or what was added" in shown(found)
    (reason,) = found.hidden
    assert "or by what fills them as well (noise, weight decay)" in reason


def test_small_steps_of_short_weights_are_no_mask(tmp_path: Path, plain: Path) -> None:
    """AdamW of 1e-5 on bfloat16 weights moves few of them: nothing was left out, perhaps."""
    root = tmp_path / "captures"
    shutil.copytree(plain, root)
    generator = torch.Generator().manual_seed(1)
    for path in sorted(root.rglob("update.safetensors")):
        sent = load_file(path.parent / "broadcast.safetensors")
        short = {name: t.bfloat16() for name, t in sent.items()}
        sides = {n: torch.randint(0, 2, t.shape, generator=generator) for n, t in short.items()}
        after = {n: (t + 1e-5 * (2 * sides[n] - 1)).bfloat16() for n, t in short.items()}
        save_file({n: after[n].float() - t.float() for n, t in short.items()}, path)
        save_file({n: t.float() for n, t in short.items()}, path.parent / "broadcast.safetensors")
    assert named_in(inspect_captures(root)) == ["left out", "16 bits"]
    assert "lose small steps" in shown(inspect_captures(root))


def test_captures_without_a_span_and_of_other_shapes_are_counted_right(
    tmp_path: Path, gpt2: str
) -> None:
    """One whose block 0 did not move has no dimension to count; nor has one of another rank."""
    build = functools.partial(
        lora, r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True
    )
    root = capture(tmp_path / "captures", gpt2, build, adapters, rounds=2)
    frozen, other = sorted(root.rglob("update.safetensors"))[:2]
    update = load_file(frozen)
    save_file({n: t * ("h.0." not in n) for n, t in sorted(update.items())}, frozen)
    update = load_file(other)
    short = {n: t[:, :3].contiguous() if "lora_B" in n else t for n, t in sorted(update.items())}
    save_file(short, other)
    found = inspect_captures(root)
    assert found.looked == 4 and found.rank == [4, 4]  # neither of those two shows a span
    assert found.filled == 2 and "in 2 of 2 all dimensions are filled" in shown(found)
    missing, full = found.hidden.items()
    assert "none of which moved: it reads nothing" in missing[0] and missing[1] == 1
    assert full[1] == 3  # what is of the rank it has fills it as well
