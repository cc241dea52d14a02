"""Batches: padding, labels, masks, and a loss that padding does not change."""

import pytest
import torch

from fedsim.types import Tokens
from tests.conftest import Adapt, Sentences

IGNORED = -100  # what transformers' losses leave out
RAGGED: list[Tokens] = [(9, 10, 11, 12, 13), (14, 15), (16, 17, 18)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny", "bert-tiny"])
def test_short_rows_are_filled_up_on_the_right(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    batch = model.batch(RAGGED, [1, 0, 1], seeded())
    pad = model.pad
    assert batch["input_ids"].tolist() == [
        [9, 10, 11, 12, 13],
        [14, 15, pad, pad, pad],
        [16, 17, 18, pad, pad],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0, 1]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny"])
def test_a_next_token_loss_leaves_padding_out(adapt: Adapt, preset: str) -> None:
    model = adapt(preset, task="causal-lm")
    # a padding id that is also a token of the text keeps its label there
    sequences = [(9, model.pad, 11), (14,)]
    batch = model.batch(sequences, [None, None], seeded())
    assert batch["labels"].tolist() == [[9, model.pad, 11], [14, IGNORED, IGNORED]]


@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny", "bert-tiny"])
def test_padding_does_not_change_a_classification_loss(
    adapt: Adapt, sentences: Sentences, preset: str
) -> None:
    model = adapt(preset)
    module = model.load(model.initial_parameters()).eval()
    sequences, labels = [*sentences(model, 3), *RAGGED[1:2]], [0, 1, 1, 0]
    alone = [  # naive: one unpadded example at a time
        module(input_ids=torch.tensor([ids]), labels=torch.tensor([label])).loss
        for ids, label in zip(sequences, labels, strict=True)
    ]
    loss = module(**model.batch(sequences, labels, seeded())).loss
    torch.testing.assert_close(loss, torch.stack(alone).mean(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny"])
def test_padding_does_not_change_a_next_token_loss(
    adapt: Adapt, sentences: Sentences, preset: str
) -> None:
    model = adapt(preset, task="causal-lm")
    module = model.load(model.initial_parameters()).eval()
    sequences = [*sentences(model, 3), *RAGGED[1:2]]
    total, predicted = torch.zeros(()), 0  # naive: the sum over tokens, one example at a time
    for ids in sequences:
        row = torch.tensor([ids])
        logits = module(input_ids=row).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum")
        predicted += len(ids) - 1
    loss = module(**model.batch(sequences, [None] * 4, seeded())).loss
    torch.testing.assert_close(loss, total / predicted, rtol=0, atol=1e-5)


def test_padding_does_not_change_a_masked_loss(adapt: Adapt, sentences: Sentences) -> None:
    model = adapt("bert-tiny", task="masked-lm")
    module = model.load(model.initial_parameters()).eval()
    sequences = sentences(model, 4)
    batch = model.batch(sequences, [None] * 4, seeded())
    total, predicted = torch.zeros(()), 0
    for row, ids in enumerate(sequences):
        masked, labels = (batch[name][row, : len(ids)] for name in ("input_ids", "labels"))
        chosen = labels != IGNORED
        logits = module(input_ids=masked[None]).logits[0, chosen]
        total += torch.nn.functional.cross_entropy(logits, labels[chosen], reduction="sum")
        predicted += int(chosen.sum())
    torch.testing.assert_close(module(**batch).loss, total / predicted, rtol=0, atol=1e-5)


def test_masked_lm_masks_as_bert_does(adapt: Adapt) -> None:
    model = adapt("bert-tiny", task="masked-lm")
    ids = torch.randint(8, model.vocabulary, (70, 130), generator=seeded(1))
    ids[:, 0], ids[:, -1] = model.prefix[0], model.suffix[0]
    batch = model.batch([tuple(row) for row in ids.tolist()], [None] * 70, seeded())
    chosen = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][chosen], ids[chosen])
    assert torch.equal(batch["input_ids"][~chosen], ids[~chosen])
    assert not chosen[:, [0, -1]].any()  # never a special token
    # 15 % of 70 x 128 tokens, then 80 / 10 / 10 of those; 4 standard deviations of a binomial
    n, k = 70 * 128, int(chosen.sum())
    assert abs(k / n - 0.15) < 4 * (0.15 * 0.85 / n) ** 0.5
    masked = batch["input_ids"][chosen] == model.tokenizer.mask_token_id
    same = batch["input_ids"][chosen] == ids[chosen]
    assert abs(masked.double().mean().item() - 0.8) < 4 * (0.8 * 0.2 / k) ** 0.5
    assert abs(same.double().mean().item() - 0.1) < 4 * (0.1 * 0.9 / k) ** 0.5
    assert abs((~masked & ~same).double().mean().item() - 0.1) < 4 * (0.1 * 0.9 / k) ** 0.5


def test_masked_lm_masks_at_least_one_token_a_row_and_no_padding(adapt: Adapt) -> None:
    model = adapt("bert-tiny", task="masked-lm")
    start, end = model.prefix, model.suffix
    sequences = [(*start, *[20 + i] * (1 + i % 3), *end) for i in range(60)]
    batch = model.batch(sequences, [None] * 60, seeded())
    chosen = batch["labels"] != IGNORED
    real = torch.tensor([[0 < j <= 1 + i % 3 for j in range(5)] for i in range(60)])
    assert chosen.any(dim=1).all() and not chosen[~real].any()


def test_masked_lm_has_nothing_to_mask_in_a_text_without_tokens(adapt: Adapt) -> None:
    model = adapt("bert-tiny", task="masked-lm")
    empty = (*model.prefix, *model.suffix)
    batch = model.batch([empty, (*model.prefix, 20, *model.suffix)], [None, None], seeded())
    assert batch["labels"].tolist() == [[IGNORED] * 3, [IGNORED, 20, IGNORED]]
    assert batch["input_ids"][0].tolist() == [*empty, model.pad]


def test_masks_follow_the_generator(adapt: Adapt, sentences: Sentences) -> None:
    model = adapt("bert-tiny", task="masked-lm")
    sequences = sentences(model, 4)
    batch, same, other = (model.batch(sequences, [None] * 4, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(batch["input_ids"], same["input_ids"])
    assert not torch.equal(batch["labels"], other["labels"])
