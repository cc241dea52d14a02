"""Training choices as defenses: what trains, what travels, and what an attack sees of it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from defenses import Defense, Dropout, FFALoRA, Freeze, LoRA, NoDefense, SecAgg
from defenses.base import Setting
from fedsim.errors import BadInput
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.training import TrainingSettings
from tests.conftest import Adapt

SPEC = ModelSpec(name="builtin:gpt2-tiny", weights="random")


def adapter(defense: Defense, spec: ModelSpec = SPEC) -> ModelAdapter:
    return load_adapter(defense.configure(spec, TrainingSettings())[0])


def test_freezing_leaves_its_groups_out_of_what_travels() -> None:
    whole = adapter(NoDefense()).trainable()
    left = adapter(Freeze(groups=("embeddings", "layers.1"))).trainable()
    assert left == [name for name in whole if ".wte" not in name and ".wpe" not in name
                    and ".h.1." not in name]  # fmt: skip
    assert len(left) == len(whole) - 2 - 12  # two embeddings; a block has 12 tensors


def test_what_the_model_section_freezes_stays_frozen() -> None:
    spec = replace(SPEC, freeze=("head", "embeddings"))
    model, training = Freeze(groups=("embeddings", "layers.0")).configure(spec, TrainingSettings())
    assert model.freeze == ("head", "embeddings", "layers.0")
    assert training == TrainingSettings()


def test_lora_sends_adapters_and_the_head() -> None:
    left = adapter(LoRA(rank=3)).initial_parameters()
    shapes = {
        name.split(".")[-3] if "lora" in name else "head": tuple(t.shape)
        for name, t in left.items()
    }
    assert shapes == {"lora_A": (3, 192), "lora_B": (576, 3), "head": (2, 192)}
    assert len(left) == 4 * 2 + 1
    chosen = adapter(LoRA(rank=3, targets=("c_fc",))).trainable()
    assert all("c_fc" in name or "score" in name for name in chosen)


def test_ffa_lora_sends_b_alone_and_a_is_public() -> None:
    model = adapter(FFALoRA(rank=3))
    assert not [name for name in model.trainable() if "lora_A" in name]
    assert len([name for name in model.trainable() if "lora_B" in name]) == 4
    # Frozen, so drawn from the public seed: the same wherever the model is built.
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight"
    again = adapter(FFALoRA(rank=3))
    assert torch.equal(model.module.get_parameter(name), again.module.get_parameter(name))
    assert model.module.get_parameter(name).abs().max() > 0


def test_two_sources_of_adapters_are_one_too_many() -> None:
    with pytest.raises(BadInput, match=r"adapters of rank 3 already; set either model.lora_rank"):
        LoRA().configure(replace(SPEC, lora_rank=3), TrainingSettings())
    with pytest.raises(BadInput, match="adapters of rank 8 already"):
        FFALoRA().configure(LoRA().configure(SPEC, TrainingSettings())[0], TrainingSettings())


@pytest.mark.parametrize("preset", ["gpt2-tiny", "bert-tiny", "llama-tiny"])
def test_dropout_has_its_rate_in_every_family(preset: str) -> None:
    spec = replace(SPEC, name=f"builtin:{preset}")
    model, training = Dropout(rate=0.25).configure(spec, TrainingSettings())
    assert training.dropout
    module = load_adapter(model).module
    rates = {layer.p for layer in module.modules() if isinstance(layer, nn.Dropout) and layer.p}
    assert rates == ({0.25} if preset != "llama-tiny" else set())
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    module.train()
    torch.manual_seed(0)
    first, second = module(input_ids=ids).logits, module(input_ids=ids).logits
    assert not torch.equal(first, second)
    module.eval()
    assert torch.equal(module(input_ids=ids).logits, module(input_ids=ids).logits)


def test_the_models_own_rates_are_its_own(adapt: Adapt) -> None:
    rates = {
        layer.p for layer in adapt("gpt2-tiny").module.modules() if isinstance(layer, nn.Dropout)
    }
    assert rates == {0.1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Freeze(groups=()), r"groups must name what to freeze, got \[\]"),
        (lambda: Freeze(groups=("",)), r"groups must name what to freeze, got \[''\]"),
        (lambda: LoRA(rank=0), "rank must be > 0, got 0"),
        (lambda: FFALoRA(rank=-1), "rank must be > 0, got -1"),
        (lambda: Dropout(rate=0.0), r"rate must be in \(0, 1\), got 0.0"),
        (lambda: Dropout(rate=1.0), r"rate must be in \(0, 1\), got 1.0"),
    ],
)
def test_bad_settings_are_said(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_of_fewer_than_three_clients_no_sum_hides_anything(adapt: Adapt) -> None:
    setting = Setting(
        adapter=adapt("gpt2-tiny"),
        training=TrainingSettings(),
        batch_size=4,
        held=(9, 9),
        clients_per_round=2,
        rounds=1,
        defenses=(SecAgg(),),
    )
    with pytest.raises(BadInput, match="clients_per_round must be at least 3, got 2"):
        SecAgg().check(setting)
    SecAgg().check(replace(setting, clients_per_round=3))
    assert SecAgg.sums and not NoDefense.sums
