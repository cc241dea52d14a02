"""Presets built in code: architectures without weight files, and a small tokenizer of their own.

The tokenizer's merges were learned once from the built-in corpus (``learn_tokenizer``) and are kept
in ``tokenizer.json``: the vocabulary is public, as any model's is; the corpus is not imported here.
"""

import json
from collections.abc import Iterable
from importlib.resources import files

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from fedsim.errors import BadInput, unknown

VOCABULARY = 2048
SPECIAL = ("<|endoftext|>", "<s>", "</s>", "<unk>", "[PAD]", "[CLS]", "[SEP]", "[MASK]")


def _gpt2_tiny() -> PreTrainedConfig:
    end = SPECIAL.index("<|endoftext|>")
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=256,
        n_embd=192,
        n_layer=4,
        n_head=6,
        bos_token_id=end,
        eos_token_id=end,
    )


def _llama_tiny() -> PreTrainedConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=256,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
    )


def _bert_tiny() -> PreTrainedConfig:
    return BertConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=256,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        pad_token_id=SPECIAL.index("[PAD]"),
    )


PRESETS = {
    "bert-tiny": _bert_tiny,
    "gpt2": GPT2Config,  # 12 layers, d = 768, 50,257 tokens: transformers' defaults
    "gpt2-tiny": _gpt2_tiny,
    "llama-tiny": _llama_tiny,
}


def preset(name: str) -> PreTrainedConfig:
    """Return the architecture called ``builtin:<name>``."""
    if name not in PRESETS:
        raise BadInput(f"model.name: {unknown('preset', name, PRESETS)}")
    return PRESETS[name]()


def learn_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn a byte-level BPE of ``VOCABULARY`` tokens: no text is out of its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def preset_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Return the presets' tokenizer with the special tokens of ``family``."""
    text = files("fedsim.models").joinpath("tokenizer.json").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_str(json.dumps(json.loads(text)))
    ids = {name: place for place, name in enumerate(SPECIAL)}
    if family == "gpt2":
        names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    elif family == "llama":
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", ids["<s>"])]
        )
    else:
        names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        names |= {"mask_token": "[MASK]"}
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=None, **names
    )
    return fast
