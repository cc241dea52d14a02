"""The small language model: its loss against a full softmax, and that it learns."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from attacks.matching import Prior
from fedsim.errors import BadInput, RunFailed
from fedsim.lab import priors
from fedsim.lab.cli import main
from fedsim.lab.priors import (
    PriorSettings,
    encoded,
    perplexity,
    sampled_loss,
    save_prior,
    train_prior,
)
from tests.conftest import Adapt

TEXTS = ["the cat sat on the mat", "a dog ran in the park", "the bird sang in the tree"] * 8
SMALL = PriorSettings(width=32, layers=1, epochs=6, batch_size=4, learning_rate=1e-2)


def quietly(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def folder(adapt: Adapt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = adapt("bert-tiny").tokenizer
    model, _ = train_prior(tokenizer, TEXTS, TEXTS[:3], SMALL, quietly)
    place = tmp_path_factory.mktemp("prior") / "made"
    save_prior(place, model, tokenizer, {"data": "three sentences"})
    return place


def test_the_sampled_loss_is_the_full_one_on_average_over_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(priors, "SAMPLED", 40)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(6, 8, generator=generator)
    words = 0.3 * torch.randn(100, 8, generator=generator)
    targets = torch.tensor([3, 7, 7, 50, 3, 99])
    full = functional.cross_entropy(states @ words.T, targets)
    found = [sampled_loss(states, words, targets, generator) for _ in range(300)]
    assert torch.stack(found).mean().item() == pytest.approx(full.item(), rel=0.01)
    monkeypatch.setattr(priors, "SAMPLED", 100)  # nothing is left out: exact
    assert sampled_loss(states, words, targets, generator).item() == pytest.approx(full.item())


def test_it_learns_and_a_seed_fixes_it(adapt: Adapt) -> None:
    tokenizer = adapt("bert-tiny").tokenizer
    model, figures = train_prior(tokenizer, TEXTS, TEXTS[:3], SMALL, quietly)
    again, _ = train_prior(tokenizer, TEXTS, TEXTS[:3], SMALL, quietly)
    assert figures["perplexity_seen"] < 30 < 2048 / 4  # of 2,048 tokens, after 36 steps
    ids = torch.tensor([[5, 300, 301, 6]])
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


def test_nats_are_those_of_the_model_alone_and_padded(adapt: Adapt, folder: Path) -> None:
    model = adapt("bert-tiny")
    prior = Prior(str(folder), model)
    assert prior.same
    rows = encoded(model.tokenizer, [TEXTS[0], TEXTS[1][:9]], 48)
    nats = prior.nats([*rows, rows[0]])
    for row, got in zip([*rows, rows[0]], nats.tolist(), strict=True):
        alone = perplexity(prior._model, [row])  # exp of the mean over len - 1 tokens
        assert got == pytest.approx((len(row) - 1) * torch.tensor(alone).log().item(), rel=1e-4)
    shuffled = (rows[0][0], *reversed(rows[0][1:-1]), rows[0][-1])
    assert prior.nats([shuffled])[0] > nats[0]


def test_another_tokenizers_texts_are_decoded_and_encoded_again(adapt: Adapt, folder: Path) -> None:
    model = adapt("llama-tiny")
    prior = Prior(str(folder), model)
    assert not prior.same or model.prefix == (1,)
    rows = encoded(model.tokenizer, [TEXTS[0], "mat the on sat cat the"], 48)
    likely, unlikely = prior.nats(rows).tolist()
    assert likely < unlikely


def test_the_command_trains_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "prior"
    texts.write_text("\n".join(f"the {n} boats left port {n % 3}" for n in range(40)))
    words = ["train-prior", "builtin:bert-tiny", "--data", str(texts), "--out", str(out)]
    assert main([*words, "--width", "32", "--layers", "1", "--epochs", "1"]) == 0
    assert (out / "prior.json").exists() and (out / "config.json").exists()
    capsys.readouterr()
    assert main(words) == 2
    assert "is there already; name a new directory" in capsys.readouterr().err


def test_bad_input_is_one_line(adapt: Adapt, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--epochs must be > 0, got 0"):
        PriorSettings(epochs=0)
    tokenizer = adapt("llama-tiny").tokenizer
    with pytest.raises(BadInput, match="no text of two tokens or more"):
        train_prior(tokenizer, [""], [], SMALL, quietly)
    (tmp_path / "taken").write_text("a file")
    model, _ = train_prior(tokenizer, ["one text"], [], SMALL, quietly)
    with pytest.raises(RunFailed, match="could not write"):
        save_prior(tmp_path / "taken" / "prior", model, tokenizer, {})
