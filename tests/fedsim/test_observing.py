"""Observations of one's own model: transformers alone makes the model, autograd the gradient."""

import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)

from attacks import Dager, Tag
from fedsim.errors import BadInput
from fedsim.models import ModelSpec, load_adapter
from fedsim.observing import observe

TEXTS = ["Nora Petrov has had a rash since Tuesday.", "Please call Jonas Weber about his blood."]
SIZE: Any = {
    "vocab_size": 2048,
    "hidden_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
}


def tokenizer_of(family: str) -> PreTrainedTokenizerBase:
    tokenizer = load_adapter(ModelSpec(name=f"builtin:{family}-tiny")).tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def backward(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, labels: bool = True
) -> set[tuple[int, ...]]:
    """Leave the gradient of ``TEXTS`` in the model; return their tokens."""
    torch.manual_seed(1)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    targets = torch.tensor([0, 1]) if labels else ids.masked_fill(mask == 0, -100)
    model(input_ids=ids, attention_mask=mask, labels=targets).loss.backward()
    return {tuple(tokenizer(text)["input_ids"]) for text in TEXTS}


def classifier(family: str) -> PreTrainedModel:
    torch.manual_seed(1)
    model: PreTrainedModel
    if family == "gpt2":
        config = GPT2Config(vocab_size=2048, n_embd=192, n_layer=3, n_head=6, pad_token_id=0)
        model = GPT2ForSequenceClassification(config)
    elif family == "llama":
        model = LlamaForSequenceClassification(
            LlamaConfig(**SIZE, intermediate_size=512, pad_token_id=2)
        )
    else:
        model = BertForSequenceClassification(
            BertConfig(**SIZE, intermediate_size=512, pad_token_id=4)
        )
    model.train(False)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_the_texts_of_ones_own_classifier_are_read(family: str) -> None:
    model, tokenizer = classifier(family), tokenizer_of(family)
    truth = backward(model, tokenizer)
    observation = observe(model, tokenizer, num_examples=len(TEXTS))
    assert observation.model.family == family
    guess = Dager().reconstruct(observation, torch.Generator())
    assert set(guess.sequences) == truth


def test_of_a_language_model_all_but_the_last_token_is_certain() -> None:
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SIZE, intermediate_size=512, pad_token_id=2)).eval()
    tokenizer = tokenizer_of("llama")
    truth = backward(model, tokenizer, labels=False)
    observation = observe(model, tokenizer, num_examples=len(TEXTS))
    assert observation.model.spec.task == "causal-lm"
    guess = Dager().reconstruct(observation, torch.Generator())
    shortened = {tokens[:-1] for tokens in truth}
    assert shortened <= {
        tokens[: len(tokens) - drop] for tokens in guess.sequences for drop in (0, 1)
    }


def test_of_peft_s_adapters_alone_it_reads_the_texts_too() -> None:
    tokenizer = tokenizer_of("llama")
    config = peft.LoraConfig(
        r=96, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj"], task_type="SEQ_CLS"
    )
    model = peft.get_peft_model(classifier("llama"), config).eval()
    for name, parameter in model.named_parameters():  # B = 0 tells A's gradient nothing
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    truth = backward(model, tokenizer)
    observation = observe(model, tokenizer, num_examples=len(TEXTS))
    assert all("lora" in name or "score" in name for name in observation.update.tensors)
    guess = Dager().reconstruct(observation, torch.Generator())
    assert set(guess.sequences) == truth


def test_a_matching_attack_differentiates_twice_through_a_model_loaded_with_sdpa(
    tmp_path: Path,
) -> None:
    classifier("bert").save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="sdpa")
    tokenizer = tokenizer_of("bert")
    backward(model, tokenizer)
    observation = observe(model, tokenizer, num_examples=len(TEXTS))
    assert observation.model.spec.name == str(tmp_path)
    guess = Tag(steps=2).reconstruct(observation, torch.Generator().manual_seed(1))
    assert math.isfinite(guess.diagnostics["distance"])
    assert model.config._attn_implementation == "sdpa"  # the caller's own is as it was


def test_the_model_is_left_as_it_was_and_later_steps_change_nothing() -> None:
    model, tokenizer = classifier("gpt2"), tokenizer_of("gpt2")
    backward(model, tokenizer)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    observation = observe(model, tokenizer, num_examples=len(TEXTS))
    observation.model.load(observation.broadcast.parameters)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    model.zero_grad(set_to_none=False)
    sent = observation.broadcast.parameters
    assert all(torch.equal(before[name], sent[name]) for name in before)
    assert all(tensor.any() for n, tensor in observation.update.tensors.items() if "c_attn.w" in n)


def test_what_does_not_train_does_not_travel_and_dropout_is_told() -> None:
    model, tokenizer = classifier("gpt2"), tokenizer_of("gpt2")
    model.transformer.wte.weight.requires_grad_(False)  # type: ignore[union-attr]
    model.train()
    backward(model, tokenizer)
    observation = observe(model, tokenizer, num_examples=len(TEXTS))
    assert "transformer.wte.weight" not in observation.broadcast.parameters
    assert "transformer.wte.weight" not in observation.update.tensors
    assert observation.broadcast.config["dropout"] is True
    assert observation.model.trainable() == list(observation.broadcast.parameters)


def test_an_encoder_decoder_is_one_line() -> None:
    model = T5ForConditionalGeneration(T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=1))
    with pytest.raises(BadInput, match=r"^model: a 't5' model; wanted a decoder or an encoder"):
        observe(model, tokenizer_of("llama"), num_examples=1)


def test_what_is_no_model_of_transformers_is_one_line() -> None:
    with pytest.raises(BadInput, match=r"^model: a 'Linear' model; wanted a decoder or an"):
        observe(nn.Linear(2, 2), tokenizer_of("gpt2"), num_examples=1)  # type: ignore[arg-type]


def test_a_model_without_a_head_is_one_line() -> None:
    model = GPT2Model(GPT2Config(vocab_size=2048, n_embd=12, n_layer=1, n_head=1))
    wanted = r"^model: wanted GPT2ForSequenceClassification or GPT2LMHeadModel, got GPT2Model$"
    with pytest.raises(BadInput, match=wanted):
        observe(model, tokenizer_of("gpt2"), num_examples=1)


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        ({"num_labels": 1}, r"num_labels 1, problem_type 'single_label_classification'"),
        ({"problem_type": "multi_label_classification"}, "num_labels 2, problem_type 'multi_"),
    ],
)
def test_a_classifier_of_another_loss_is_one_line(settings: dict[str, Any], got: str) -> None:
    config = GPT2Config(vocab_size=2048, n_embd=12, n_layer=1, n_head=1, **settings)
    with pytest.raises(BadInput, match=f"^model: wanted a classifier with .*; got {got}"):
        observe(GPT2ForSequenceClassification(config), tokenizer_of("gpt2"), num_examples=1)


def test_another_model_s_tokenizer_is_one_line() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=12, n_layer=1, n_head=1))
    wanted = r"^tokenizer: its largest id is 2047, but the model embeds only 100 \(0 to 99\)$"
    with pytest.raises(BadInput, match=wanted):
        observe(model, tokenizer_of("gpt2"), num_examples=1)


def test_no_gradient_is_one_line(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=2048, n_embd=12, n_layer=1, n_head=1)).save_pretrained(
        tmp_path
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"holds no gradient; call loss\.backward\(\) first$"):
        observe(model, tokenizer_of("gpt2"), num_examples=1)


def test_another_method_of_peft_is_refused() -> None:
    config = peft.IA3Config(
        target_modules=["k_proj"], feedforward_modules=[], task_type=peft.TaskType.SEQ_CLS
    )
    model = peft.get_peft_model(classifier("llama"), config)
    wanted = "^model: of peft wanted one LoRA called 'default', got 'default', IA3Config$"
    with pytest.raises(BadInput, match=wanted):
        observe(model, tokenizer_of("llama"), num_examples=1)
