from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import models
from torch.nn import functional as F

from clients.corpus import clinic
from fedsim.lab.run.controls import OWN_TEXTS, own_sequences, own_update
from fedsim.messages import Broadcast
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.training import TrainingSettings
from fedsim.types import Tokens
from fedsim.vault.reader import Truth
from tests.lab.conftest import preset
from tests.oddities import gpt2, saved, tokenizer, vocabulary

FAMILIES = ["gpt2-tiny", "llama-tiny", "bert-tiny"]
LENGTHS = [13, 4, 60, 7, 200, 13, 5]


def specials(adapter: ModelAdapter) -> int:
    return len(adapter.prefix) + len(adapter.suffix)


# Own sequences: in the shape of the client's batch


@pytest.mark.parametrize("name", FAMILIES)
def test_lengths_are_exact(name: str) -> None:
    rows = own_sequences(preset(name), LENGTHS)
    assert [len(row) for row in rows] == LENGTHS


@pytest.mark.parametrize("name", FAMILIES)
def test_every_length_from_one_token_of_text_on(name: str) -> None:
    adapter = preset(name)
    shortest = specials(adapter) + 1
    wanted = list(range(shortest, shortest + 30))
    assert [len(row) for row in own_sequences(adapter, wanted)] == wanted


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_stand_around_the_text_only(name: str) -> None:
    adapter = preset(name)
    made = own_sequences(adapter, LENGTHS)
    assert len(made) == len(LENGTHS)
    for row in made:
        end = len(row) - len(adapter.suffix)
        assert row[: len(adapter.prefix)] == adapter.prefix
        assert row[end:] == adapter.suffix
        assert not adapter.special & set(row[len(adapter.prefix) : end])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("length", [12, 30])
def test_a_large_batch_holds_no_text_twice_nor_the_start_of_another(name: str, length: int) -> None:
    # An attack cannot tell equal sequences apart: the control would fail by its own fault.
    adapter = preset(name)
    lengths = [length + row % 3 for row in range(64)]
    rows = own_sequences(adapter, lengths)
    bodies = [row[: len(row) - len(adapter.suffix)] for row in rows]
    for place, body in enumerate(bodies):
        starts = [row for row, other in enumerate(bodies) if other[: len(body)] == body]
        assert starts == [place]


def test_the_texts_are_none_of_the_corpus() -> None:
    assert not set(OWN_TEXTS) & {text for text, _ in clinic()}
    assert len(set(OWN_TEXTS)) == len(OWN_TEXTS)


@pytest.mark.parametrize("unknown", ["[UNK]", None])
def test_a_vocabulary_of_other_words_gives_some_of_its_own(
    tmp_path: Path, unknown: str | None
) -> None:
    known = vocabulary(("[PAD]", "[UNK]"), [f"слово{number}" for number in range(300)])
    backend = models.WordLevel(known, unk_token=unknown) if unknown else models.WordLevel(known)
    special = {"unk_token": unknown} if unknown else {}
    made = tokenizer(backend, pad_token="[PAD]", **special)
    adapter = load_adapter(ModelSpec(name=str(saved(tmp_path, gpt2(len(known)), made))))
    rows = own_sequences(adapter, LENGTHS)
    assert [len(row) for row in rows] == LENGTHS
    assert len({token for row in rows for token in row}) > 100
    assert not adapter.special & {token for row in rows for token in row}
    assert rows == own_sequences(adapter, LENGTHS)


# Own update: what an undefended client would have sent


def broadcast(adapter: ModelAdapter, **training: Any) -> Broadcast:
    config = TrainingSettings(**training).as_config()
    return Broadcast(round=2, parameters=adapter.initial_parameters(), config=config)


def labelled(rows: Sequence[Tokens]) -> Truth:
    return Truth(sequences=tuple(rows), labels=tuple(row % 2 for row in range(len(rows))))


def test_the_own_update_is_the_gradient_of_the_own_texts() -> None:
    adapter = preset()
    sent = broadcast(adapter)
    rows = own_sequences(adapter, [9, 5, 14])
    update = own_update(adapter, sent, labelled(rows), seed=1)
    assert (update.kind, update.num_examples) == ("gradient", 3)
    # Autograd on one example after the other; labels 0, 1, 0 in turn.
    module = adapter.load(sent.parameters)
    loss = torch.stack(
        [
            -F.log_softmax(module(input_ids=torch.tensor([row])).logits[0], -1)[place % 2]
            for place, row in enumerate(rows)
        ]
    ).mean()
    names, parameters = zip(*module.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
        scale = max(gradient.abs().max().item(), 1e-4)  # float32 sums in another order
        assert (update.tensors[name] - gradient).abs().max() < 1e-4 * scale, name


def test_the_own_update_is_trained_and_sent_as_the_broadcast_says() -> None:
    adapter = preset()
    how = {"algorithm": "fedavg", "local_epochs": 2, "mini_batch_size": 2, "learning_rate": 0.1}
    rows = own_sequences(adapter, [9, 5, 14])
    sent = broadcast(adapter, wire_dtype="float16", **how)
    update = own_update(adapter, sent, labelled(rows), seed=1)
    assert update.kind == "delta"
    assert {tensor.dtype for tensor in update.tensors.values()} == {torch.float16}
    sent = broadcast(adapter, **{**how, "local_epochs": 4})
    longer = own_update(adapter, sent, labelled(rows), seed=1)
    norms = [
        sum(t.float().square().sum().item() for t in each.tensors.values())
        for each in (update, longer)
    ]
    assert norms[0] < norms[1]  # twice the steps go further


def test_the_own_update_follows_the_seed() -> None:
    adapter = preset()
    rows = own_sequences(adapter, [9, 5, 14])
    sent = broadcast(adapter, dropout=True)
    first, again, other = (
        own_update(adapter, sent, labelled(rows), seed).tensors for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
