"""Tiny models and tokenizers that are odd in one respect: directories, as users have them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

WORDS = "the nurse returns a parcel to desk nine and leaves by bus forty".split()
NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def vocabulary(special: Sequence[str] = (), words: Sequence[str] = WORDS) -> dict[str, int]:
    return {word: place for place, word in enumerate([*special, *words])}


def tokenizer(kind: Any, template: str = "", **special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of a model of ``tokenizers``, split at white space."""
    backend = Tokenizer(kind)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        around = [(word, backend.token_to_id(word)) for word in template.split() if word != "$A"]
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=around
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def words() -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words that knows [UNK] and [MASK]."""
    known = vocabulary((*NAMES.values(), "[MASK]"))
    return tokenizer(
        models.WordLevel(known, unk_token="[UNK]"),
        "[CLS] $A [SEP]",
        **NAMES,
        mask_token="[MASK]",
    )


def gpt2(vocabulary: int, **more: Any) -> GPT2LMHeadModel:
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **{**shape, **ends, **more}))


def llama(vocabulary: int, **more: Any) -> LlamaForCausalLM:
    shape = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **{**shape, **ends, **more}))


def bert(vocabulary: int, **more: Any) -> BertForMaskedLM:
    shape = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(vocab_size=vocabulary, **{**shape, **more}))


def saved(path: Path, model: PreTrainedModel, tokens: Any = None, **config: Any) -> Path:
    """Write ``model`` to ``path``, with ``config`` in the place of what its config says."""
    model.save_pretrained(path)
    (tokens or words()).save_pretrained(path)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return path


def rewritten(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Change the tensors of a directory that holds one safetensors file."""
    file = path / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return path
