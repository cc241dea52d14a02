"""LoRA: adapters and the head train, nothing else travels, and the maps are W + BA."""

import pytest
import torch

from fedsim.errors import BadInput
from fedsim.models import ModelAdapter
from tests.conftest import Adapt, Gradient

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

PRESETS = ["gpt2-tiny", "llama-tiny", "bert-tiny"]
IDS = torch.tensor([[9, 10, 11, 12, 13, 14, 15]])


def logits(model: ModelAdapter) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.module.eval()(input_ids=IDS).logits
        return logits


# by hand: 4 blocks, A and B for each of c_attn or q, k, v; then the head
@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "task", "adapters", "head"),
    [
        ("gpt2-tiny", "classification", 8, {"score.modules_to_save.default.weight"}),
        ("llama-tiny", "classification", 24, {"score.modules_to_save.default.weight"}),
        (
            "bert-tiny",
            "classification",
            24,
            {f"classifier.modules_to_save.default.{x}" for x in ("weight", "bias")},
        ),
        ("gpt2-tiny", "causal-lm", 8, set()),
        ("llama-tiny", "causal-lm", 24, set()),
        ("bert-tiny", "masked-lm", 24, set()),
    ],
)
def test_only_adapters_and_the_head_train(
    adapt: Adapt, preset: str, task: str, adapters: int, head: set[str]
) -> None:
    model = adapt(preset, task=task, lora_rank=3)
    names = model.trainable()
    lora = [name for name in names if ".lora_" in name]
    assert len(lora) == adapters
    assert sum(".lora_A." in name for name in lora) == adapters / 2
    assert {n.removeprefix("base_model.model.") for n in names if n not in lora} == head
    parameters = model.initial_parameters()
    assert list(parameters) == names
    for name in lora:
        assert parameters[name].shape[0 if ".lora_A." in name else 1] == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_a_fresh_adapter_changes_nothing(adapt: Adapt, preset: str) -> None:
    plain, model = adapt(preset), adapt(preset, lora_rank=3)
    plain.initial_parameters(), model.initial_parameters()
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_adapter_adds_b_a_to_its_map(adapt: Adapt, preset: str) -> None:
    plain, model = adapt(preset), adapt(preset, lora_rank=3)
    plain.initial_parameters()
    generator = torch.Generator().manual_seed(0)
    start = model.initial_parameters()
    moved = {n: p + 0.1 * torch.randn(p.shape, generator=generator) for n, p in start.items()}
    model.load(moved)
    weights = dict(plain.module.named_parameters())
    with torch.no_grad():  # naive: the same change made to the plain model's weights by hand
        for name, a in moved.items():
            path = name.removeprefix("base_model.model.")
            if ".lora_A." in name:
                change = moved[name.replace(".lora_A.", ".lora_B.")] @ a  # (out, in)
                weight = weights[path.replace(".lora_A.default", "")]
                weight.add_(change.T if preset == "gpt2-tiny" else change)  # Conv1D is (in, out)
            elif ".lora_B." not in name:
                weights[path.replace(".modules_to_save.default", "")].copy_(a)
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_gradient_reaches_b_and_the_head_first(
    adapt: Adapt, gradient: Gradient, preset: str
) -> None:
    model = adapt(preset, lora_rank=3)
    update = gradient(model, model.initial_parameters(), [(9, 10, 11), (12, 13)])
    assert list(update) == model.trainable()
    moving = {name for name, tensor in update.items() if tensor.abs().max() > 0}
    still = [name for name in update if ".lora_A." in name]  # A waits for B, which is 0
    assert moving == set(update) - set(still)


def test_a_seed_draws_a(adapt: Adapt) -> None:
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight"
    first, again, other = (
        adapt("gpt2-tiny", lora_rank=3, seed=seed).initial_parameters()[name] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_targets_can_be_chosen(adapt: Adapt) -> None:
    names = adapt("llama-tiny", lora_rank=2, lora_targets=("v_proj", "down_proj")).trainable()
    hit = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names if ".lora_" in name}
    assert hit == {"v_proj", "down_proj"}


def test_targets_that_are_not_there_are_bad_input(adapt: Adapt) -> None:
    with pytest.raises(BadInput, match=r"unknown module 'q_prj'; did you mean 'q_proj'\?"):
        adapt("llama-tiny", lora_rank=2, lora_targets=("v_proj", "q_prj")).trainable()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("ln_1", "LayerNorm"), ("attn", "GPT2Attention"), ("wte", "Embedding"),
        ("wpe", "Embedding"), ("dropout", "Dropout"), ("h", "ModuleList"),
    ],
)  # fmt: skip
def test_targets_that_are_no_linear_maps_are_bad_input(
    adapt: Adapt, target: str, kind: str
) -> None:
    line = rf"model.lora_targets: must be linear maps \(c_attn, c_.*\), got {target} \({kind}"
    with pytest.raises(BadInput, match=line):
        adapt("gpt2-tiny", lora_rank=2, lora_targets=("c_attn", target)).trainable()


@pytest.mark.parametrize("target", ["word_embeddings", "LayerNorm", "token_type_embeddings"])
def test_bert_s_are_looked_at_as_well(adapt: Adapt, target: str) -> None:
    with pytest.raises(BadInput, match=rf"must be linear maps \(.*dense.*\), got {target} "):
        adapt("bert-tiny", lora_rank=2, lora_targets=(target,)).trainable()


@pytest.mark.parametrize(
    ("preset", "target", "others"),
    [("gpt2-tiny", "score", "c_attn, c_fc, c_proj"), ("bert-tiny", "classifier", "dense, key, qu")],
)
def test_a_classifier_s_head_is_no_target(
    adapt: Adapt, preset: str, target: str, others: str
) -> None:
    wanted = rf"'{target}' is the head, which is trained whole .*; name some of {others}"
    with pytest.raises(BadInput, match=wanted):
        adapt(preset, lora_rank=2, lora_targets=(target,)).trainable()


def test_a_negative_rank_is_bad_input(adapt: Adapt) -> None:
    with pytest.raises(BadInput, match=r"model.lora_rank must be >= 0, got -1"):
        adapt("gpt2-tiny", lora_rank=-1).trainable()
