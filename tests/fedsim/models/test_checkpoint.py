"""What a checkpoint holds, lacks and holds too much of: used, said, or refused; never random."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification, GPT2ForSequenceClassification

from fedsim.errors import BadInput
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from tests.oddities import WORDS, bert, gpt2, llama, rewritten, saved

V = 5 + len(WORDS)  # of the words' tokenizer: [PAD], [UNK], [CLS], [SEP], [MASK], the words
Tensors = dict[str, Any]


def load(path: Path, **fields: Any) -> ModelAdapter:
    adapter = load_adapter(ModelSpec(name=str(path), **fields))
    adapter.trainable()
    return adapter


# The head


def test_a_head_for_other_labels_is_new_and_said(tmp_path: Path) -> None:
    three = GPT2ForSequenceClassification(gpt2(V, num_labels=3, pad_token_id=0).config)
    adapter = load(saved(tmp_path, three), num_labels=2)
    start = adapter.initial_parameters()
    assert start["score.weight"].shape == (2, 16)
    assert torch.equal(start["transformer.wte.weight"], three.transformer.wte.weight)
    assert adapter.notes == [
        f"the head is new, drawn from the seed: 'score.weight' of {str(tmp_path)!r} is (3, 16), "
        "and (2, 16) is wanted."
    ]


def test_a_head_of_as_many_labels_is_kept_and_nothing_is_said(tmp_path: Path) -> None:
    three = GPT2ForSequenceClassification(gpt2(V, num_labels=3, pad_token_id=0).config)
    adapter = load(saved(tmp_path, three), num_labels=3)
    assert torch.equal(adapter.initial_parameters()["score.weight"], three.score.weight)
    assert adapter.notes == []


@pytest.mark.parametrize(
    ("model", "task", "new"),
    [
        (gpt2, "causal-lm", []),  # the head is the embeddings
        (gpt2, "classification", ["score.weight"]),
        (llama, "causal-lm", []),  # untied, and there
        (llama, "classification", ["score.weight"]),
        (bert, "masked-lm", []),
        # one cannot pool for another task than one's own
        (bert, "classification", ["bert.pooler.dense.weight", "3 more"]),
    ],
)
def test_what_another_task_brings_anew_is_said(
    tmp_path: Path, model: Callable[[int], Any], task: Any, new: list[str]
) -> None:
    notes = load(saved(tmp_path, model(V)), task=task).notes
    assert len(notes) == bool(new)
    assert all(part in note for note in notes for part in new)


def test_an_encoder_without_its_task_s_head_gets_a_new_one(tmp_path: Path) -> None:
    saved(tmp_path, bert(V))
    rewritten(tmp_path, lambda held: {k: v for k, v in held.items() if k.startswith("bert.")})
    (note,) = load(tmp_path, task="masked-lm").notes
    assert note.startswith("the head is new") and "'cls.predictions." in note


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_a_classifier_of_another_loss_gets_that_of_one_label_a_text(
    tmp_path: Path, kind: str
) -> None:
    two = GPT2ForSequenceClassification(gpt2(V, pad_token_id=0).config)
    adapter = load(saved(tmp_path, two, problem_type=kind))
    batch = adapter.batch([(7, 8, 9), (9, 8)], [0, 1], torch.Generator())
    with torch.no_grad():
        answer = adapter.module(**batch)
    expected = torch.nn.functional.cross_entropy(answer.logits, batch["labels"])
    assert torch.equal(answer.loss, expected)


def test_a_head_of_two_maps_that_fits_in_part_is_named_whole(tmp_path: Path) -> None:
    five = BertForSequenceClassification(bert(V, num_labels=5).config)
    (note,) = load(saved(tmp_path, five), num_labels=2).notes
    assert "'classifier.weight'" in note and "(and 1 more)" in note  # its bias


# The body


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "base_model.model.", "net.0."]
)
@pytest.mark.parametrize("model", [gpt2, bert])
def test_names_within_a_wrapper_are_refused(
    tmp_path: Path, prefix: str, model: Callable[[int], Any]
) -> None:
    saved(tmp_path, model(V))
    rewritten(tmp_path, lambda held: {prefix + name: one for name, one in held.items()})
    wanted = rf"lack \d+ of the model's \d+ tensors, first '.*'; its names begin with '{prefix}'"
    with pytest.raises(BadInput, match=wanted):
        load(tmp_path, task="masked-lm" if model is bert else "causal-lm")


@pytest.mark.parametrize(
    ("lost", "first"),
    [
        ("transformer.h.1.", "transformer.h.1.ln_1.weight"),
        ("transformer.wte.", "transformer.wte.weight"),
        ("transformer.wpe.", "transformer.wpe.weight"),
        ("transformer.ln_f.bias", "transformer.ln_f.bias"),
    ],
)
def test_a_body_that_lacks_weights_is_refused(tmp_path: Path, lost: str, first: str) -> None:
    saved(tmp_path, gpt2(V))
    rewritten(tmp_path, lambda held: {k: v for k, v in held.items() if not k.startswith(lost)})
    with pytest.raises(BadInput, match=rf"lack \d+ of the model's \d+ tensors, first '{first}'$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            {"n_embd": 32},
            r"'transformer.wte.weight' is \(18, 16\), not \(18, 32\) \(and \d+ more\)",
        ),
        ({"vocab_size": 40}, r"'transformer.wte.weight' is \(18, 16\), not \(40, 16\)$"),
        ({"n_positions": 64}, r"'transformer.wpe.weight' is \(32, 16\), not \(64, 16\)$"),
        ({"n_inner": 8}, r"'transformer.h.0.mlp.c_fc.weight' is \(16, 64\), not \(16, 8\)"),
        ({"n_layer": 3}, r"lack 12 of .* tensors, first 'transformer.h.2.ln_1.weight'"),
        ({"n_head": 3}, "model.name: no weights in .*divisible by"),
    ],
)
def test_a_config_that_misstates_the_weights_is_refused(
    tmp_path: Path, config: dict[str, Any], line: str
) -> None:
    with pytest.raises(BadInput, match=line) as caught:
        load(saved(tmp_path, gpt2(V), **config))
    assert "\n" not in str(caught.value)


def test_blocks_that_the_config_leaves_out_are_said(tmp_path: Path) -> None:
    adapter = load(saved(tmp_path, gpt2(V, n_layer=3), n_layer=2), task="causal-lm")
    assert adapter.layers == 2
    # Of 12, for transformers takes c_attn.bias for a buffer of old checkpoints.
    (note,) = adapter.notes
    assert "no place for 11 weights" in note and "first 'transformer.h.2." in note


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, gpt2(V))
    llama(V).save_pretrained(tmp_path / "other")
    (tmp_path / "other/model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match=r"lack \d+ of the model's \d+ tensors"):
        load(tmp_path)


def test_a_pickle_is_read_and_a_broken_one_is_one_line(tmp_path: Path) -> None:
    model = gpt2(V)
    saved(tmp_path, model)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    kept = load(tmp_path).initial_parameters()["transformer.wpe.weight"]
    assert torch.equal(kept, model.transformer.wpe.weight)
    torch.save({"module": {"x": 1}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"^model\.name: .*(no weights in|lack)"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x05no pickle")
    with pytest.raises(BadInput, match=r"model.name: no weights in "):
        load(tmp_path)


# What is no number


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_that_is_no_number_is_named(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    model: Any = gpt2(V)
    model.transformer.h[1].mlp.c_fc.weight.data[3, 5] = value
    wanted = r"'transformer.h.1.mlp.c_fc.weight' of .* holds NaN or infinity, 1 of 1024 values"
    with pytest.raises(BadInput, match=wanted):
        load(saved(tmp_path, model.to(dtype)))


def test_random_weights_that_cannot_be_drawn_are_one_line(tmp_path: Path) -> None:
    saved(tmp_path, gpt2(V), initializer_range=float("nan"))
    with pytest.raises(BadInput, match=r"model.name: no model can be built as .* says: .*nan"):
        load(tmp_path, weights="random")


# What the files hold


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "called"),
    [
        (torch.int8, "I8"),
        (torch.int64, "I64"),
        (torch.uint8, "U8"),
        (torch.bool, "BOOL"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
        (torch.complex64, "C64"),
    ],
)
@pytest.mark.parametrize("pickled", [False, True])
def test_weights_that_are_no_floats_are_named(
    tmp_path: Path, dtype: torch.dtype, called: str, pickled: bool
) -> None:
    key = "transformer.h.0.attn.c_attn.weight"
    saved(tmp_path, gpt2(V))
    held = rewritten(tmp_path, lambda held: held | {key: (held[key] * 50).to(dtype)})
    if pickled:
        file = held / "model.safetensors"
        torch.save(load_file(file), held / "pytorch_model.bin")
        file.unlink()
    wanted = f"'{key}' of .* must be F64, F32, F16, BF16, got {dtype if pickled else called}$"
    with pytest.raises(BadInput, match=wanted):
        load(tmp_path, task="causal-lm")


def test_every_weight_of_a_body_without_its_prefix_is_looked_at(tmp_path: Path) -> None:
    saved(tmp_path, bert(V))
    rewritten(tmp_path, lambda held: {k.removeprefix("bert."): one for k, one in held.items()})
    load(tmp_path, task="masked-lm")
    key = "encoder.layer.1.output.dense.weight"
    rewritten(tmp_path, lambda held: held | {key: held[key].char()})
    with pytest.raises(BadInput, match=f"'{key}' of .* got I8"):
        load(tmp_path, task="masked-lm")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_another_width_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    model: Any = gpt2(V)
    saved(tmp_path, model.to(dtype))
    start = load(tmp_path, task="causal-lm").initial_parameters()
    assert torch.equal(start["transformer.wpe.weight"], model.transformer.wpe.weight.float())


def test_masks_and_positions_may_be_integers(tmp_path: Path) -> None:
    saved(tmp_path / "gpt2", gpt2(V))
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32, dtype=torch.uint8)}
    load(rewritten(tmp_path / "gpt2", lambda held: held | mask), task="causal-lm")
    saved(tmp_path / "bert", bert(V))
    places = {"bert.embeddings.position_ids": torch.arange(32)[None]}
    load(rewritten(tmp_path / "bert", lambda held: held | places), task="masked-lm")


@pytest.mark.parametrize(
    ("model", "key", "other"),
    [
        (gpt2, "transformer.h.1.ln_1.weight", "h.1.ln_1.weight"),
        (gpt2, "transformer.wte.weight", "transformer.transformer.wte.weight"),
        (llama, "model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        (bert, "bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"),
        (bert, "bert.embeddings.LayerNorm.bias", "embeddings.LayerNorm.beta"),
    ],
)
def test_two_tensors_for_one_weight_are_named(
    tmp_path: Path, model: Callable[[int], Any], key: str, other: str
) -> None:
    saved(tmp_path, model(V))
    rewritten(tmp_path, lambda held: held | {other: held[key] + 5})
    with pytest.raises(BadInput, match="holds one weight twice, as ") as caught:
        load(tmp_path, task="masked-lm" if model is bert else "causal-lm")
    assert repr(key) in str(caught.value) and repr(other) in str(caught.value)


def test_shards_are_looked_at_one_by_one(tmp_path: Path) -> None:
    model = gpt2(V)
    saved(tmp_path, model)
    held = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    files = {key: f"part-{at % 2}.safetensors" for at, key in enumerate(held)}
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": files})
    )

    def write(file: str, **more: torch.Tensor) -> None:
        tensors = {key: one for key, one in held.items() if files[key] == file}
        save_file(tensors | more, tmp_path / file, metadata={"format": "pt"})

    write("part-0.safetensors")
    write("part-1.safetensors")
    start = load(tmp_path, task="causal-lm").initial_parameters()
    assert torch.equal(start["transformer.wpe.weight"], model.transformer.wpe.weight)
    key = next(key for key, file in files.items() if file == "part-0.safetensors")
    write("part-1.safetensors", **{key: held[key] + 5})
    with pytest.raises(BadInput, match=f"holds one weight twice, as '{key}' and '{key}'"):
        load(tmp_path, task="causal-lm")
    write("part-1.safetensors", **{key: held[key].char()})
    with pytest.raises(BadInput, match=f"'{key}' of .* got I8"):
        load(tmp_path, task="causal-lm")


# What the config says


@pytest.mark.parametrize(
    "how",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "nobody's"},
    ],
)
def test_quantized_weights_are_refused(tmp_path: Path, how: dict[str, Any]) -> None:
    path = saved(tmp_path, llama(V), quantization_config=how)
    with pytest.raises(BadInput, match=r"model.name: the weights of .* are quantized"):
        load(path)
    assert load(path, weights="random").layers == 2  # its architecture is one like any


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"n_layer": 0}, "num_hidden_layers of .* must be a whole number, 1 to 1000, got 0"),
        ({"n_embd": -8}, "hidden_size of .* must be a whole number, 1 to 1000000, got -8"),
        ({"n_positions": 0}, "max_position_embeddings of .* got 0"),
        ({"vocab_size": 0}, "vocab_size of .* must be a whole number, 1 to 10000000, got 0"),
        ({"n_layer": 10**30}, "num_hidden_layers of .*, 1 to 1000, got 10{30}$"),
        ({"activation_function": "nothing"}, "model.name: no weights in .*KeyError"),
        ({"resid_pdrop": 3.0}, "model.name: no weights in .*dropout probability"),
    ],
)
def test_what_a_config_cannot_say_is_one_line(
    tmp_path: Path, config: dict[str, Any], line: str
) -> None:
    with pytest.raises(BadInput, match=line) as caught:
        load(saved(tmp_path, gpt2(V), **config))
    assert "\n" not in str(caught.value)


def test_a_config_of_a_thousand_brackets_is_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path, gpt2(V))
    (path / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(BadInput, match=r"model.name: the directory .* cannot be read: .*recursion"):
        load(path)
