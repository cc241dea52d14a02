"""The tokenizer of presets: architectures without weight files, which each family has of its own.

Its merges were learned once from the built-in corpus (``learn_tokenizer``) and are kept in
``tokenizer.json``: the vocabulary is public, as any model's is; the corpus is not imported here.
"""

import json
from collections.abc import Iterable
from importlib.resources import files

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from fedsim.models.workspace import TEXT, Workspace

VOCABULARY = 2048
SPECIAL = ("<|endoftext|>", "<s>", "</s>", "<unk>", "[PAD]", "[CLS]", "[SEP]", "[MASK]")


def token(word: str) -> int:
    """Return the id of a special token of the presets' tokenizer."""
    return SPECIAL.index(word)


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


def preset_tokenizer(family: type[Workspace]) -> PreTrainedTokenizerFast:
    """Return the presets' tokenizer with the special tokens of ``family``."""
    text = files("fedsim.models").joinpath("tokenizer.json").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_str(json.dumps(json.loads(text)))
    around = [word for word in family.template.split() if word != TEXT]
    if around:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=family.template, special_tokens=[(word, token(word)) for word in around]
        )
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=None, **family.special_tokens
    )
    return fast
