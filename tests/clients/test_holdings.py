"""What a client holds, and what of it a round trains on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import models

from clients import ClientSettings, DataSettings
from clients.holdings import Held, check_examples, client_examples, encode, round_batch
from fedsim.errors import BadInput
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from tests.clients.rounds import MODEL, ROWS
from tests.oddities import WORDS, bert, gpt2, saved, tokenizer, vocabulary

# Encoding


def test_texts_become_the_tokenizers_ids(adapter: ModelAdapter) -> None:
    texts = ["The nurse called.", "Call me back, please."]
    examples = encode(adapter, texts, [1, 0], 64)
    # The presets' tokenizer is a lossless byte-level BPE without special tokens for GPT-2.
    assert [adapter.tokenizer.decode(list(ids)) for ids in examples.sequences] == texts
    assert examples.labels == (1, 0)


def test_long_texts_are_cut_off(adapter: ModelAdapter) -> None:
    whole = encode(adapter, ["one two three four five six seven"], [0], 64).sequences[0]
    assert len(whole) > 5
    assert encode(adapter, ["one two three four five six seven"], [0], 5).sequences == (whole[:5],)


@pytest.mark.parametrize(
    ("task", "kept"), [("causal-lm", (1, 3)), ("classification", (0, 1, 2, 3))]
)
def test_texts_without_a_loss_are_left_out(task: Any, kept: tuple[int, ...]) -> None:
    adapter = load_adapter(replace(MODEL, task=task))
    texts = ["a", "ab cd", "x", "x y"]  # one letter is one token: it predicts nothing
    examples = encode(adapter, texts, [5, 6, 7, 8], 64)
    assert [len(adapter.tokenizer(text)["input_ids"]) for text in ("a", "x")] == [1, 1]
    assert [adapter.tokenizer.decode(list(ids)) for ids in examples.sequences] == [
        texts[row] for row in kept
    ]
    assert examples.labels == tuple((5, 6, 7, 8)[row] for row in kept)


def test_a_client_whose_texts_are_all_too_short_is_bad_input(
    tmp_path: Path, settings: ClientSettings
) -> None:
    (tmp_path / "short.txt").write_text("a\nb\nc\nd\n")
    data = DataSettings(name=str(tmp_path / "short.txt"), evaluate=0)
    short = replace(settings, data=data, model=replace(MODEL, task="causal-lm"))
    with pytest.raises(BadInput, match="client 0 holds no text to train on: all are too short"):
        check_examples(short.model, data, 64, 3, 1)


def test_masked_texts_of_unknown_words_are_left_out(tmp_path: Path) -> None:
    adapter = load_adapter(
        ModelSpec(name=str(saved(tmp_path, bert(5 + len(WORDS)))), task="masked-lm")
    )
    texts = ["zur zweiten Reihe", "the nurse", "", "zur nurse"]  # English words alone are known
    examples = encode(adapter, texts, [5, 6, 7, 8], 64)
    assert examples.labels == (6, 8)
    batch = adapter.batch(examples.sequences, examples.labels, torch.Generator().manual_seed(0))
    assert ((batch["labels"] >= 0).sum(1) >= 1).all()
    assert adapter.losses(adapter.module, batch).isfinite().all()


def test_a_word_that_the_tokenizer_cannot_say_is_named_before_anything_starts(
    tmp_path: Path,
) -> None:
    known = vocabulary(("<s>",))
    made = tokenizer(models.WordLevel(known), bos_token="<s>")
    name = str(saved(tmp_path / "model", gpt2(len(known)), made))
    texts = [f"the nurse returns {WORDS[at % 5]}" for at in range(60)]
    data = DataSettings(name=str(tmp_path / "texts.txt"), evaluate=0)
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    check_examples(ModelSpec(name=name), data, 64, 1, 1)
    (tmp_path / "last.txt").write_text("\n".join([*texts, "the doctor returns"]))
    data = DataSettings(name=str(tmp_path / "last.txt"), evaluate=0)
    with pytest.raises(BadInput, match=r"model.tokenizer: .* cannot encode the texts: .*\[?UNK"):
        check_examples(ModelSpec(name=name), data, 64, 1, 1)


def test_a_client_with_one_text_that_is_long_enough_can_train(
    tmp_path: Path, settings: ClientSettings
) -> None:
    (tmp_path / "last.txt").write_text("a\n" * 40 + "ab cd\n")
    data = DataSettings(name=str(tmp_path / "last.txt"), evaluate=0)
    model = replace(MODEL, task="causal-lm")
    check_examples(model, data, 64, 1, 1)
    held = Held(model, data, 64, 1, 1)
    assert len(held) == 1 and list(held) == [1] and 1 in held and 41 not in held


def test_what_clients_hold_is_counted_only_when_it_is_asked_for() -> None:
    held = Held(MODEL, DataSettings(name="not there"), 64, 5, 1)
    assert len(held) == 5
    with pytest.raises(BadInput, match="not there"):
        list(held)


# A round's batch


def test_clients_hold_different_texts_and_together_all(settings: ClientSettings) -> None:
    held = [set(client_examples(settings, client).sequences) for client in range(3)]
    assert sum(map(len, held)) == len(held[0] | held[1] | held[2]) == len(ROWS) - 4  # held out: 4


def test_a_batch_is_drawn_without_replacement_by_seed_client_and_round(
    settings: ClientSettings,
) -> None:
    batch = round_batch(settings, 1, 1)
    assert len(batch) == len(set(batch.sequences)) == 5
    assert set(batch.sequences) <= set(client_examples(settings, 1).sequences)
    assert round_batch(settings, 1, 1) == batch
    others = [
        round_batch(settings, 1, 2),
        round_batch(settings, 2, 1),
        round_batch(replace(settings, seed=3), 1, 1),
    ]
    assert all(other.sequences != batch.sequences for other in others)


def test_labels_stay_with_their_texts(settings: ClientSettings, adapter: ModelAdapter) -> None:
    truth = dict(ROWS)
    batch = round_batch(replace(settings, batch_size=0), 0, 1)
    for ids, label in zip(batch.sequences, batch.labels, strict=True):
        assert truth[str(adapter.tokenizer.decode(list(ids)))] == label


@pytest.mark.parametrize("size", [0, 1000])
def test_a_batch_of_all(settings: ClientSettings, size: int) -> None:
    whole = client_examples(settings, 2)
    batch = round_batch(replace(settings, batch_size=size), 2, 1)
    assert len(batch) == 32  # (100 - 4) / 3
    assert sorted(batch.sequences) == sorted(whole.sequences)
