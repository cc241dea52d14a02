"""What captures hold is said as it is."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from fedsim.lab.cli import main
from fedsim.lab.inspect import inspect_captures
from fedsim.lab.run.looks import looks_of
from fedsim.lab.terminal.inspect import inspection_lines
from fedsim.models.shapes import Shapes
from tests.lab.run.projects import (
    NODES,
    TEXTS,
    Net,
    adapters,
    capture,
    classifier,
    listed,
    listed_adapters,
    lora,
    named,
    saved,
)

LORA = functools.partial(lora, r=16, lora_alpha=32, target_modules=["c_attn"], fan_in_fan_out=True)

pytestmark = pytest.mark.slow  # projects that train


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "gpt2", "gpt2-tiny")


def lines(root: Path) -> str:
    return "\n".join(inspection_lines(inspect_captures(root).as_dict()))


def test_rounds_clients_and_nodes_are_those_captured(tmp_path: Path, gpt2: str) -> None:
    root = capture(tmp_path / "captures", gpt2, classifier, named, rounds=2, config={"lr": 0.05})
    found = inspect_captures(root)
    assert (found.rounds, found.clients, found.kind) == ([1, 2], {0: 2, 1: 2}, {"delta": 4})
    assert found.examples == (2, 2) and found.masked == 0
    assert found.settings["learning_rate"] == 0.05
    assert "training.optimizer" in found.unsaid and "training.learning_rate" not in found.unsaid
    assert (found.family, found.width) == ("gpt2", 192)
    assert all(0 < rank < 192 for rank in found.rank) and not found.filled
    assert not found.hidden
    text = lines(root)
    assert "2 rounds (1, 2) of 2 clients (0, 1)" in text and "width 192, 4 blocks" in text
    assert "Next: fedsim attack" in text and "training.optimizer=<the project's>" in text


@pytest.mark.parametrize(
    ("build", "state", "looks", "width"),
    [
        (Net, named, "width 192, 4 blocks", 192),
        (classifier, listed, "width 192", 192),
        (LORA, adapters, "LoRA of rank 16 on c_attn", 16),
        (LORA, listed_adapters, "LoRA of rank 16", 16),
    ],
)
def test_arrays_look_like_what_they_are(
    tmp_path: Path, gpt2: str, build: Any, state: Any, looks: str, width: int
) -> None:
    found = inspect_captures(capture(tmp_path / "captures", gpt2, build, state))
    assert looks in found.looks and found.width == width
    assert len(found.rank) == 2  # of both clients


def test_the_width_is_what_adapters_read_even_where_it_is_their_rank() -> None:
    sent = {"0.v_proj.lora_A.weight": (64, 64), "0.v_proj.lora_B.weight": (32, 64)}
    shapes = Shapes.of(sent)
    assert (shapes.rank, shapes.width) == (64, 64)


@pytest.mark.parametrize("state", [named, listed])
def test_as_many_inputs_stand_out_as_the_batch_has(tmp_path: Path, gpt2: str, state: Any) -> None:
    """Counted by hand: each (token, place) of a client's texts is one input; padding is none.

    One that is alone at a text's end may be lost in rounding.
    """
    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    wanted = [
        len({pair for text in some for pair in enumerate(tokenizer(text)["input_ids"])})
        for some in TEXTS.values()
    ]
    found = inspect_captures(capture(tmp_path / "captures", gpt2, classifier, state))
    assert len(found.rank) == len(wanted) and not found.filled
    for rank, inputs in zip(found.rank, wanted, strict=True):
        assert 0.85 * inputs < rank <= inputs + 1


@pytest.mark.parametrize(("state", "build"), [(named, classifier), (adapters, LORA)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_steps_of_adam_show(
    tmp_path: Path, gpt2: str, optimizer: str, state: Any, build: Any
) -> None:
    root = capture(tmp_path / "captures", gpt2, build, state, optimizer=optimizer, rate=1e-3)
    hides = " ".join(inspect_captures(root).hidden)
    assert ("as Adam's steps are" in hides) == (optimizer == "adamw")


def test_a_first_step_shows_in_the_adapters_that_it_moves() -> None:
    """A has no gradient while B is zero; B (K, R) is tall, as embeddings are that were left out."""
    up = 1e-3 * torch.randn(128, 8, generator=torch.Generator().manual_seed(1)).sign()
    looks = looks_of({"q.lora_A.weight": torch.zeros(8, 128), "q.lora_B.weight": up})
    assert looks.kurtosis == pytest.approx(1.0) and looks.adam("delta")


@pytest.mark.parametrize(("even", "adam"), [(True, True), (False, False)])
def test_of_adapters_the_rows_tell_and_no_kurtosis(even: bool, adam: bool) -> None:
    """Random projections of inputs are normal, whoever steps; Adam evens out the outputs."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(1, 16, generator=generator)  # one, seen through A
    outputs = torch.randn(256, 1, generator=generator)
    up = outputs.sign() @ inputs if even else outputs @ inputs
    looks = looks_of({"q.lora_A.weight": torch.zeros(16, 256), "q.lora_B.weight": up})
    assert looks.adam("delta") == adam and not looks.noise
    assert not looks.adam("gradient")


@pytest.mark.parametrize("kind", ["gradient", "delta"])
def test_noise_on_adapters_is_said(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    noise = {f"{n}.lora_B.weight": torch.randn(128, 8, generator=generator) for n in range(6)}
    assert "noise" in " ".join(looks_of(noise).words(kind))
    two = {
        "score.lora_B.weight": torch.randn(1, 8, generator=generator) * torch.tensor([[1], [-1]])
    }
    assert looks_of(two).rows is None  # two labels' rows are opposites, whoever steps


def test_a_project_that_named_its_model_is_still_somebody_elses(tmp_path: Path, gpt2: str) -> None:
    root = capture(tmp_path / "captures", gpt2, classifier, named, config={"lr": 0.05})
    for record in root.glob("round=*/client=*/observation.json"):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"model": {"name": gpt2}}))
    found = inspect_captures(root)
    assert found.settings["learning_rate"] == 0.05
    (following,) = [line for line in lines(root).splitlines() if line.startswith("Next: ")]
    assert "model.name" not in following and "--truth" in following
    assert "training.optimizer=<the project's>" in following


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (torch.sign, "signs alone were sent"),
        (lambda t: (t / t.abs().max() * 100).round(), "it was quantised"),
        (lambda t: t * (t.abs() > t.abs().quantile(0.9)), "most was left out"),
        (lambda t: t / 0, "NaN or infinite"),
    ],
)
def test_what_compression_leaves_shows(change: Any, word: str) -> None:
    generator = torch.Generator().manual_seed(1)
    made = torch.randn(96, 96, generator=generator) ** 3
    assert word in " ".join(looks_of({"a.weight": change(made)}).words("gradient"))
    assert not looks_of({"a.weight": made}).words("gradient")


def test_noise_is_told_from_steps_of_adam() -> None:
    """A normal distribution has kurtosis 3; a gradient, a sum of few outer products, far more."""
    generator = torch.Generator().manual_seed(1)
    noise = {f"{at}.weight": torch.randn(96, 96 + at, generator=generator) for at in range(8)}
    assert "as normal noise is" in " ".join(looks_of(noise).words("delta"))
    assert not looks_of(noise).adam("delta")
    left, right = (torch.randn(96, 6, generator=generator) ** 3 for _ in range(2))
    assert not looks_of({"a.weight": left @ right.T}).words("delta")


def test_a_first_step_of_adam_on_weights_of_zero_is_no_quantisation() -> None:
    """LoRA's B is zero: its first step shows as it is, each entry the rate but for rounding."""
    generator = torch.Generator().manual_seed(1)
    signs = torch.randn(96, 96, generator=generator).sign()
    rounded = 1 + torch.randint(100, (96, 96), generator=generator) * 1e-7
    words = looks_of({"a.weight": 5e-5 * signs * rounded}).words("delta")
    assert len(words) == 1 and "as Adam's steps are" in words[0]


def test_the_command_says_it_and_prints_json(
    tmp_path: Path, gpt2: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = capture(tmp_path / "captures", gpt2, classifier, named)
    assert main(["inspect", str(root)]) == 0
    assert "Model: not said" in capsys.readouterr().out
    assert main(["inspect", str(root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["nodes"] == {str(client): node for client, node in NODES.items()}
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert "is not a directory" in capsys.readouterr().err
