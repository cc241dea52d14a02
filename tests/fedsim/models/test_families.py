"""Families: a fourth one is one file, and everything works on it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2ForSequenceClassification

from attacks import Dager, Dlg
from fedsim.errors import BadInput
from fedsim.lab.terminal.catalogue import catalogue
from fedsim.local import LocalTraining
from fedsim.messages import Knowledge
from fedsim.models import (
    ModelAdapter,
    ModelSpec,
    families,
    family,
    family_names,
    family_of,
    load_adapter,
    preset,
    preset_names,
)
from fedsim.training import Examples, TrainingSettings
from tests.attacks.scene import exact
from tests.conftest import Gradient, Observe
from tests.defenses.dp.naive import agrees, moved

FOURTH = '''
"""Qwen2: LLaMA's blocks with biases on q, k and v."""

import functools
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from fedsim.models.base import ModelAdapter
from fedsim.models.norms import Norm
from fedsim.models.opening import Opening, affine
from fedsim.models.presets import VOCABULARY, token
from fedsim.models.spec import Projection
from fedsim.models.trunk import shell


class Qwen2Adapter(ModelAdapter):
    family = "qwen2"
    causal = True
    positional = False
    classes: ClassVar = {
        "classification": Qwen2ForSequenceClassification,
        "causal-lm": Qwen2ForCausalLM,
    }
    groups: ClassVar = {"embeddings": ("*embed_tokens.*",), "head": ("*score.*", "lm_head.*")}
    attention = ("q_proj", "k_proj", "v_proj")
    dropouts = ("attention_dropout",)
    stack = "layers"
    reads: ClassVar = {
        "hidden": tuple(Projection(f"self_attn.{x}_proj.weight", input_axis=1) for x in "qkv"),
        "context": (Projection("self_attn.o_proj.weight", input_axis=1),),
        "middle": tuple(Projection(f"mlp.{x}_proj.weight", input_axis=1) for x in ("gate", "up")),
        "inner": (Projection("mlp.down_proj.weight", input_axis=1),),
    }
    heads: ClassVar = {"classification": "score", "causal-lm": "lm_head"}
    last_norm = "norm"
    presets: ClassVar = {
        "qwen2-tiny": functools.partial(
            Qwen2Config,
            vocab_size=VOCABULARY,
            max_position_embeddings=64,
            hidden_size=96,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=3,
            bos_token_id=token("<s>"),
            eos_token_id=token("</s>"),
        )
    }
    special_tokens: ClassVar = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    template = "<s> $A"

    def _cut(self, base: nn.Module, depth: int) -> nn.Module:
        blocks = cast(nn.ModuleList, base.layers)
        norm = cast(nn.Module, blocks[depth].input_layernorm)
        return shell(base, layers=blocks[:depth], norm=norm)

    def _open(self, base: Any) -> Opening:
        block = base.layers[0]
        attention = block.self_attn
        maps = (attention.q_proj, attention.k_proj, attention.v_proj)

        def heads(vectors: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = (m(vectors).unflatten(-1, (-1, attention.head_dim)) for m in maps)
            cos, sin = base.rotary_emb(vectors, positions[None].to(vectors.device))
            turned = apply_rotary_pos_emb(q, k, cos[0], sin[0], unsqueeze_dim=1)
            return turned[0], turned[1], v

        words = base.embed_tokens.weight.detach()
        output, bias = affine(attention.o_proj, self.width, words)
        return Opening(
            words=words,
            places=torch.zeros_like(words[:1]),
            norm=Norm.of(block.input_layernorm),
            heads=heads,
            scale=attention.scaling,
            output=output,
            output_bias=bias,
            middle=Norm.of(block.post_attention_layernorm),
            normed=False,
        )
'''
TEXTS = ((1, 700, 801, 902), (1, 1500, 333, 1201, 640))  # each begins with <s>


@pytest.fixture
def fourth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a fourth family: one file in a folder on the families' path."""
    (tmp_path / "qwen2.py").write_text(FOURTH)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    yield
    sys.modules.pop("fedsim.models.families.qwen2", None)
    vars(families).pop("qwen2", None)


def tiny(**fields: Any) -> ModelAdapter:
    return load_adapter(ModelSpec(name="builtin:qwen2-tiny", **fields))


def some(model: ModelAdapter) -> Examples:
    labels = (0, 1) if model.spec.task == "classification" else (None, None)
    return Examples(sequences=TEXTS, labels=labels)


def test_a_file_is_a_family_and_its_presets_are_named_after_it() -> None:
    files = sorted(path.stem for path in Path(families.__file__).parent.glob("[a-z]*.py"))
    assert family_names() == files and {"bert", "gpt2", "llama"} <= set(files)
    for name in family_names():
        kind = family(name)
        assert kind.family == name
        assert f"{name}-tiny" in kind.presets
        assert all(preset(size).model_type == name for size in kind.presets)
    assert {"bert-tiny", "gpt2", "gpt2-tiny", "llama-tiny"} <= set(preset_names())
    for other in ("t5", "nothing"):
        with pytest.raises(
            BadInput, match=rf"model: a '{other}' model; wanted a decoder or an enc"
        ):
            family(other)


@pytest.mark.usefixtures("fourth")
def test_a_fourth_family_is_known_by_its_file() -> None:
    assert {"bert", "gpt2", "llama", "qwen2"} <= set(family_names())
    assert family_of("builtin:qwen2-tiny").family == "qwen2"
    with pytest.raises(BadInput, match=r"unknown preset 'qwen2-small'; did you mean 'qwen2-tiny'"):
        family_of("builtin:qwen2-small")
    models = {row["name"]: row["about"] for row in catalogue("models")["models"]}
    assert models["builtin:qwen2-tiny"] == "qwen2, random weights, no download"
    assert "classification" in models["any qwen2 model"]


@pytest.mark.usefixtures("fourth")
@pytest.mark.parametrize("fields", [{}, {"task": "causal-lm"}, {"lora_rank": 2}])
def test_a_fourth_family_trains_as_transformers_does(
    fields: dict[str, Any], gradient: Gradient
) -> None:
    model = tiny(**fields)
    parameters = model.initial_parameters()
    settings = TrainingSettings(algorithm="fedsgd")
    sent, _ = LocalTraining(model, settings)(parameters, some(model), torch.Generator())
    wanted = gradient(model, parameters, TEXTS, [0, 1])
    assert list(sent) == list(wanted) and any(tensor.any() for tensor in sent.values())
    for name, tensor in wanted.items():
        torch.testing.assert_close(sent[name], tensor, rtol=1e-4, atol=1e-6)
    assert isinstance(model.module, Qwen2ForSequenceClassification) == (fields == {})


@pytest.mark.usefixtures("fourth")
@pytest.mark.parametrize("fields", [{}, {"task": "causal-lm"}, {"lora_rank": 2}])
def test_a_fourth_familys_examples_are_clipped_one_by_one(fields: dict[str, Any]) -> None:
    model = tiny(**fields)
    agrees(model, moved(model), some(model))


@pytest.mark.usefixtures("fourth")
def test_a_fourth_family_is_matched_and_read(gradient: Gradient, observe: Observe) -> None:
    model = tiny()
    parameters = model.initial_parameters()
    update = gradient(model, parameters, TEXTS, [0, 1])
    granted = Knowledge(lengths=tuple(map(len, TEXTS)))
    observation = observe(model, parameters, update, granted, examples=2)
    for attack in (Dlg(steps=3), Dager()):
        attack.check(model)
    matched = Dlg(steps=3).reconstruct(observation, torch.Generator().manual_seed(0))
    assert len(matched.sequences) == 2 and matched.diagnostics["distance"] > 0.0
    read = Dager().reconstruct(observation, torch.Generator().manual_seed(0))
    assert exact(read, TEXTS) == len(read.sequences) == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import nothing_of_that_name", "family 'broken': its file cannot be imported: ModuleNotF"),
        ("x = 1", "family 'broken': its file holds no ModelAdapter of that family"),
    ],
)
def test_a_broken_family_is_one_line(
    text: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(text)
    (tmp_path / "_shared.py").write_text("what = 'two families share'")
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    try:
        assert "broken" in family_names() and "_shared" not in family_names()
        with pytest.raises(BadInput, match=line):
            family("broken")
    finally:
        sys.modules.pop("fedsim.models.families.broken", None)
