"""The README's twelve lines of Python run as they stand, and with a model of one's own."""

import re
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

from fedsim.models import ModelSpec, load_adapter
from tests.docs.pages import ROOT, blocks, printed

CODE = blocks(ROOT / "README.md", "python")[0]
TEXTS = {
    "Nora Petrov has had a rash since Tuesday.",
    "Call Jonas Weber about his blood results.",
}


def test_it_has_one_block_of_about_twelve_lines_of_public_names() -> None:
    assert len(blocks(ROOT / "README.md", "python")) == 1
    assert len([line for line in CODE.splitlines() if line.strip()]) <= 16
    assert not re.search(r"\b_\w", CODE)


def test_it_prints_the_texts_and_their_scores(tmp_path: Path) -> None:
    *texts, scores = printed(CODE, tmp_path)
    assert set(texts) == TEXTS
    assert "'exact_match': 1.0" in scores


def test_with_the_two_lines_of_a_model_of_ones_own_it_does_the_same(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tokenizer = load_adapter(ModelSpec(name="builtin:bert-tiny")).tokenizer
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=192, num_hidden_layers=3, num_attention_heads=6,
        intermediate_size=512, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    code = re.sub(
        r"^(\w+) = .*# yours: transformers\.(\w+)\.\S+$",
        r'import transformers\n\1 = transformers.\2.from_pretrained("model")',
        CODE,
        flags=re.MULTILINE,
    )
    assert code.count('from_pretrained("model")') == 2
    *texts, scores = printed(code, tmp_path)
    assert set(texts) == TEXTS
    assert "'exact_match': 1.0" in scores
