"""A guess against a batch that one holds: counted by hand."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from fedsim.lab.scoring import score
from fedsim.messages import Reconstruction
from fedsim.models import ModelSpec, load_adapter


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_adapter(ModelSpec(name="builtin:bert-tiny")).tokenizer


def test_padding_and_special_tokens_do_not_count(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = tokenizer(["Nora called.", "Nora has a rash since Tuesday."], padding=True)["input_ids"]
    bare = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Nora called.",)]
    guess = Reconstruction(sequences=(tuple(bare[0]),))
    metrics = score(guess, torch.tensor(batch), tokenizer)
    assert metrics["exact_match"] == 0.5  # one of two texts
    assert metrics["precision"] == 1.0  # the one guess is right
    assert metrics == score(guess, batch, tokenizer)


def test_each_metric_is_a_mean_over_texts_and_order_does_not_matter(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    truth = [[100, 200, 300, 400], [500, 600]]
    guess = Reconstruction(sequences=((500, 601), (100, 200, 400, 300), (7, 8), ()))
    metrics = score(guess, truth, tokenizer)
    assert metrics["exact_match"] == 0.0
    assert metrics["token_accuracy"] == (2 / 4 + 1 / 2) / 2
    assert metrics["bag_f1"] == (1.0 + 2 * 1 / 4) / 2
    assert metrics["precision"] == 0.0  # of three guesses; an empty one says nothing


def test_nothing_read_is_zero_and_has_no_precision(tokenizer: PreTrainedTokenizerBase) -> None:
    metrics = score(
        Reconstruction(sequences=()), tokenizer(["Nora called."])["input_ids"], tokenizer
    )
    assert set(metrics.values()) == {0.0}
    assert "rouge1" in metrics and "precision" not in metrics


def test_texts_without_words_are_in_no_rouge(tokenizer: PreTrainedTokenizerBase) -> None:
    truth = tokenizer(["Nora called.", "!!!"])["input_ids"]
    guess = Reconstruction(sequences=(tuple(truth[0]),))
    metrics = score(guess, truth, tokenizer)
    assert (metrics["exact_match"], metrics["rouge1"]) == (0.5, 100.0)
    metrics = score(guess, truth[1:], tokenizer)
    assert "rouge1" not in metrics and metrics["precision"] == 0.0


def test_no_text_is_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=r"^truth must hold at least one text, got none$"):
        score(Reconstruction(sequences=()), [], tokenizer)


def test_a_text_of_special_tokens_alone_is_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="needs at least one token"):
        score(Reconstruction(sequences=()), [tokenizer.all_special_ids], tokenizer)
