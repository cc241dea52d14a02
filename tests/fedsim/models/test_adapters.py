"""Adapters that peft saved: what their directory says is what is built."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from fedsim.errors import BadInput
from fedsim.models import ModelAdapter, ModelSpec, load_adapter

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = torch.tensor([[9, 10, 11, 12, 13, 14, 15]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    adapter = load_adapter(ModelSpec(name="builtin:llama-tiny"))
    adapter.module.save_pretrained(folder)
    adapter.tokenizer.save_pretrained(folder)
    return folder


def stirred(base: Path, **options: Any) -> peft.PeftModel:
    """Return peft's own model, whose adapters count."""
    module = AutoModelForSequenceClassification.from_pretrained(base)
    made = peft.get_peft_model(module, peft.LoraConfig(task_type="SEQ_CLS", **options))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    return made.eval()


def logits(model: ModelAdapter) -> torch.Tensor:
    with torch.no_grad():
        told: torch.Tensor = model.module.eval()(input_ids=IDS).logits
        return told


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        {"r": 4, "lora_alpha": 16, "use_rslora": True, "target_modules": ["v_proj"]},
        {"r": 2, "lora_alpha": 3, "use_dora": True, "target_modules": ["o_proj"]},
        {"r": 3, "lora_alpha": 6, "target_modules": "all-linear"},
        {"r": 3, "lora_alpha": 6, "target_modules": ["self_attn.q_proj"], "lora_dropout": 0.1},
    ],
)
def test_a_saved_adapter_computes_what_pefts_own_does(
    tmp_path: Path, base: Path, options: dict[str, Any]
) -> None:
    theirs = stirred(base, **options)
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(ModelSpec(name=str(tmp_path)))
    assert (ours.spec.name, ours.spec.lora_rank) == (str(base), options["r"])
    with torch.no_grad():
        torch.testing.assert_close(logits(ours), theirs(input_ids=IDS).logits, rtol=0, atol=1e-6)
    assert load_adapter(ours.spec).spec == ours.spec  # as a worker builds it again


@pytest.mark.parametrize(("alpha", "rslora", "scale"), [(0, False, 1), (8, False, 2), (8, True, 4)])
def test_adapters_count_as_often_as_alpha_says(
    base: Path, alpha: float, rslora: bool, scale: float
) -> None:
    """W x + scale B A x, by hand: alpha / r, or alpha / sqrt(r) of rsLoRA."""
    spec = ModelSpec(name=str(base), lora_rank=4, lora_alpha=alpha, use_rslora=rslora)
    module = load_adapter(spec).module
    part: Any = module.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    down, up = part.lora_A["default"].weight, part.lora_B["default"].weight
    with torch.no_grad():
        up.normal_()
        x = torch.randn(3, down.shape[1])
        wanted = x @ part.base_layer.weight.T + scale * (x @ down.T) @ up.T
        torch.testing.assert_close(part(x), wanted)


def test_what_is_said_must_be_what_the_directory_says(tmp_path: Path, base: Path) -> None:
    stirred(base, r=4, lora_alpha=16, target_modules=["q_proj"]).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="has adapters with lora_rank 4, got 8"):
        load_adapter(ModelSpec(name=str(tmp_path), lora_rank=8))
    assert load_adapter(ModelSpec(name=str(tmp_path), lora_rank=4)).spec.lora_alpha == 16


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"peft_type": "LOHA"}, "peft_type must be 'LORA', got 'LOHA'"),
        ({"bias": "all"}, "bias must be 'none', got 'all'"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern must be"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights must be"),
        ({"r": 0}, "adapter_config.json.*r"),
        ({"r": "many"}, "adapter_config.json.*r"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "task_type must be"),
        ({"target_modules": ["xx"]}, "model.lora_targets: .*'xx'"),
    ],
)
def test_adapters_that_fedsim_does_not_build(
    tmp_path: Path, base: Path, change: dict[str, Any], line: str
) -> None:
    stirred(base, r=4, lora_alpha=16, target_modules=["q_proj"]).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInput, match=line):
        _ = load_adapter(ModelSpec(name=str(tmp_path))).module


@pytest.mark.parametrize("how", ["gone", "cut", "another"])
def test_weights_that_do_not_fit(tmp_path: Path, base: Path, how: str) -> None:
    stirred(base, r=4, lora_alpha=16, target_modules=["q_proj"]).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        save_file({f"x.{name}": value for name, value in load_file(path).items()}, path)
    with pytest.raises(BadInput, match=r"model.name: .*adapter_model.safetensors"):
        _ = load_adapter(ModelSpec(name=str(tmp_path))).module
