"""Whatever a tokenizer is, what it puts around a text is found, and what does not fit is said."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import models, processors
from transformers import PreTrainedTokenizerFast

from fedsim.errors import BadInput
from fedsim.models import ModelSpec, load_adapter, takes_any_text
from fedsim.models.tokenizing import around
from tests.oddities import NAMES, WORDS, bert, gpt2, saved, tokenizer, vocabulary, words

PLAIN = vocabulary(("<s>", "</s>"), [word for word in WORDS if "a" not in word])
SIGNS = [sign for sign in "bcdefghijklmnopqrstuvwxyz"]


def no_unknown(kind: str) -> Any:
    """Return a model of ``tokenizers`` without an unknown token, and without the letter a."""
    known = vocabulary(("<s>", "</s>"), SIGNS)
    return {
        "words": models.WordLevel(PLAIN),
        "pieces": models.WordPiece(known),
        "pairs": models.BPE(known, []),
        "unigram": models.Unigram([(word, -1.0) for word in known]),
    }[kind]


KINDS = ["words", "pieces", "pairs", "unigram"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("template", "before", "after"),
    [("", (), ()), ("<s> $A", (0,), ()), ("<s> $A </s>", (0,), (1,)), ("$A </s> <s>", (), (1, 0))],
)
def test_what_stands_around_a_text_is_read_off_the_template(
    kind: str, template: str, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    made = tokenizer(no_unknown(kind), template, bos_token="<s>", eos_token="</s>")
    assert around(made) == (before, after)


@pytest.mark.parametrize("processor", [processors.BertProcessing, processors.RobertaProcessing])
def test_other_processors_tell_it_as_well(processor: Any) -> None:
    made = words()
    made.backend_tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(), processor(("[SEP]", 3), ("[CLS]", 2))]
    )
    assert around(made) == ((2,), (3,))


@pytest.mark.parametrize("known", [("the", "nurse"), ("bus",)])
def test_it_is_what_encoding_a_text_gives(known: tuple[str, ...]) -> None:
    made = words()
    before, after = around(made)
    bare = made(" ".join(known), add_special_tokens=False)["input_ids"]
    assert made(" ".join(known))["input_ids"] == [*before, *bare, *after]


@pytest.mark.parametrize(
    ("kind", "any_text"), [("words", False), ("pieces", False), ("pairs", True), ("unigram", False)]
)
def test_whether_a_tokenizer_takes_any_text(kind: str, any_text: bool) -> None:
    assert takes_any_text(tokenizer(no_unknown(kind), bos_token="<s>")) is any_text
    assert takes_any_text(words())


def load(path: Path, **fields: Any) -> None:
    load_adapter(ModelSpec(name=str(path), **fields))


def gap(where: int, size: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose ids leave ``size`` out from ``where`` on."""
    known = {w: i if i < where else i + size for w, i in vocabulary(tuple(NAMES.values())).items()}
    return tokenizer(models.WordLevel(known, unk_token="[UNK]"), "[CLS] $A [SEP]", **NAMES)


def test_a_hole_among_the_ids_is_said_with_both_numbers(tmp_path: Path) -> None:
    made, largest = gap(10, 100), 4 + len(WORDS) + 100 - 1  # four special tokens, then the words
    line = rf"model.tokenizer: its largest id is {largest}, but '.*' embeds only 60 \(0 to 59\)"
    assert len(made) < 60 < largest
    with pytest.raises(BadInput, match=line):
        load(saved(tmp_path / "few", gpt2(60), made))
    load(saved(tmp_path / "enough", gpt2(largest + 1), made))


def test_ids_that_begin_late_are_as_good_as_any(tmp_path: Path) -> None:
    load(saved(tmp_path, gpt2(4 + len(WORDS) + 7), gap(0, 7)))


def test_a_special_token_beyond_the_embeddings_is_said(tmp_path: Path) -> None:
    made = words()
    made.backend_tokenizer.post_processor = processors.BertProcessing(("[SEP]", 900), ("[CLS]", 2))
    with pytest.raises(BadInput, match=r"its largest id is 900, but '.*' embeds only 40"):
        load(saved(tmp_path, gpt2(40), made))


def test_masked_lm_needs_a_mask(tmp_path: Path) -> None:
    known = vocabulary(tuple(NAMES.values()))
    made = tokenizer(models.WordLevel(known, unk_token="[UNK]"), "[CLS] $A [SEP]", **NAMES)
    path = saved(tmp_path, bert(len(known)), made)
    with pytest.raises(BadInput, match=r"model.tokenizer: it has no mask token, .*masked-lm"):
        load(path, task="masked-lm")
    load(path, task="classification")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_mask_that_is_another_special_token_is_refused(tmp_path: Path, name: str) -> None:
    known = vocabulary(tuple(NAMES.values()))
    kind = models.WordLevel(known, unk_token="[UNK]")
    made = tokenizer(kind, "[CLS] $A [SEP]", **NAMES, mask_token=NAMES[name])
    path = saved(tmp_path, bert(len(known)), made)
    line = re.escape(f"a mask token that is no other, got '{NAMES[name]}', which is its {name}")
    with pytest.raises(BadInput, match=f"model.tokenizer: the task masked-lm wants {line}"):
        load(path, task="masked-lm")
    load(path, task="classification")


def test_a_mask_of_its_own_is_taken(tmp_path: Path) -> None:
    load(saved(tmp_path, bert(len(words())), words()), task="masked-lm")


def test_a_tokenizer_of_special_tokens_alone_is_refused(tmp_path: Path) -> None:
    made = tokenizer(models.WordLevel({"[PAD]": 0}, unk_token="[PAD]"), pad_token="[PAD]")
    with pytest.raises(BadInput, match=r"model.tokenizer: it knows no token of a text"):
        load(saved(tmp_path, gpt2(4), made))


@pytest.mark.parametrize("length", ["512", "[/bold]", [], {}])
def test_a_length_that_is_no_number_is_one_line(tmp_path: Path, length: Any) -> None:
    path = saved(tmp_path, gpt2(40), words())
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": length}))
    with pytest.raises(BadInput, match=r"^model.tokenizer: .*'(int|str|list|dict)'") as caught:
        load_adapter(ModelSpec(name=str(path)))
    assert "\n" not in str(caught.value)
