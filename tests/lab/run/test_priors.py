"""The small language model: its loss against a full softmax, and that it learns."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from attacks import Lamp, Partial
from attacks.matching import Prior
from fedsim.errors import BadInput, RunFailed, UnsupportedObservation
from fedsim.lab.cli import main
from fedsim.lab.run import priors
from fedsim.lab.run.priors import (
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
    losses = [sampled_loss(states, words, targets, generator) for _ in range(300)]
    assert torch.stack(losses).mean().item() == pytest.approx(full.item(), rel=0.01)
    monkeypatch.setattr(priors, "SAMPLED", 100)  # nothing is left out: exact
    assert sampled_loss(states, words, targets, generator).item() == pytest.approx(full.item())


@pytest.mark.slow
def test_it_learns_and_a_seed_fixes_it(adapt: Adapt) -> None:
    tokenizer = adapt("bert-tiny").tokenizer
    model, figures = train_prior(tokenizer, TEXTS, TEXTS[:3], SMALL, quietly)
    again, _ = train_prior(tokenizer, TEXTS, TEXTS[:3], SMALL, quietly)
    assert figures["perplexity_seen"] < 30 < 2048 / 4  # of 2,048 tokens, after 36 steps
    ids = torch.tensor([[5, 300, 301, 6]])
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


@pytest.mark.slow
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


def test_another_tokenizers_texts_are_decoded_and_encoded_again(
    shared: Callable[[str], Path], adapt: Adapt
) -> None:
    model = adapt("llama-tiny")
    prior = Prior(str(shared("data/models/stories260K-hf")), model)
    assert not prior.same
    texts = ["Once upon a time, there was a little girl.", "little a was there girl time a upon."]
    rows = encoded(model.tokenizer, texts, 48)
    likely, unlikely = prior.nats(rows).tolist()
    assert likely < unlikely
    ids = prior._tokenizer(texts[0])["input_ids"]  # the prior's own, <s> in front
    assert ids[0] == prior._tokenizer.bos_token_id
    wanted = (len(ids) - 1) * torch.tensor(perplexity(prior._model, [tuple(ids)])).log().item()
    assert likely == pytest.approx(wanted, rel=1e-4)


def broken(folder: Path, place: Path, **changed: bytes | None) -> str:
    """Return a copy of the prior with other files, or without them."""
    shutil.copytree(folder, place)
    for name, content in changed.items():
        for path in place.glob(f"{name}*"):
            path.unlink() if content is None else path.write_bytes(content)
    return str(place)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": None}, r"holds no weights \(\*.safetensors or \*.bin\)"),
        ({"tokenizer": None}, "holds no tokenizer"),
        ({"config": b"{"}, "config.json.*names none"),
        ({"config": b"[]"}, "config.json.*names none"),
        ({"config": b'{"architectures": ["BertModel"]}'}, r"holds a \['BertModel'\]"),
    ],
)
def test_a_directory_that_is_no_prior_is_refused_beforehand(
    folder: Path, tmp_path: Path, changed: dict[str, bytes | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Lamp(prior=broken(folder, tmp_path / "prior", **changed))


def test_a_prior_that_cannot_be_read_or_is_none_is_refused(
    adapt: Adapt, folder: Path, tmp_path: Path
) -> None:
    model = adapt("bert-tiny")
    with pytest.raises(UnsupportedObservation, match=r"the prior in .* cannot be read: "):
        Prior(broken(folder, tmp_path / "cut", model=b"abc"), model)
    config = json.loads((folder / "config.json").read_text())
    strange = {**config, "model_type": "strange", "auto_map": {"AutoConfig": "code.Config"}}
    with pytest.raises(UnsupportedObservation, match=r"cannot be read: .*custom code"):
        Prior(broken(folder, tmp_path / "code", config=json.dumps(strange).encode()), model)
    both = BertConfig(vocab_size=2048, hidden_size=32, num_hidden_layers=1, num_attention_heads=1)
    BertLMHeadModel(both).save_pretrained(tmp_path / "both")
    model.tokenizer.save_pretrained(tmp_path / "both")
    with pytest.raises(UnsupportedObservation, match="reads a text both ways"):
        Prior(str(tmp_path / "both"), model)
    deeper = json.dumps({**config, "n_layer": 2}).encode()
    with pytest.raises(UnsupportedObservation, match=r"lacks weights, first 'transformer.h.1"):
        Prior(broken(folder, tmp_path / "deep", config=deeper), model)
    few = GPT2Config(vocab_size=100, n_positions=8, n_embd=32, n_layer=1, n_head=1)
    GPT2LMHeadModel(few).save_pretrained(tmp_path / "few")
    model.tokenizer.save_pretrained(tmp_path / "few")
    with pytest.raises(UnsupportedObservation, match=r"knows 100 tokens.*has 2048"):
        Prior(str(tmp_path / "few"), model)


@pytest.mark.parametrize("file", ["model", "tokenizer.json"])
def test_a_prior_that_cannot_be_read_is_said_before_a_run(
    adapt: Adapt, folder: Path, tmp_path: Path, file: str
) -> None:
    model = adapt("bert-tiny")
    Lamp(prior=str(folder)).check(model)
    cut = broken(folder, tmp_path / "cut", **{file: b"{"})
    with pytest.raises(BadInput, match=r"attack partial: the prior in .* cannot be read: "):
        Partial(prior=cut).check(model)


def test_a_text_beyond_the_priors_positions_is_refused(adapt: Adapt, folder: Path) -> None:
    with pytest.raises(UnsupportedObservation, match="at most 512 of its tokens, got one of 513"):
        Prior(str(folder), adapt("bert-tiny")).nats([(9,) * 513])


@pytest.mark.parametrize(("width", "heads"), [(16, 1), (65, 1), (100, 2), (128, 4)])
def test_any_width_has_heads(adapt: Adapt, width: int, heads: int) -> None:
    settings = PriorSettings(width=width, layers=1, epochs=1)
    assert settings.heads == heads
    model, _ = train_prior(adapt("bert-tiny").tokenizer, TEXTS[:2], [], settings, quietly)
    assert model.config.n_head == heads


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
    with pytest.raises(BadInput, match="--seed must be >= 0, got -1"):
        PriorSettings(seed=-1)
    tokenizer = adapt("llama-tiny").tokenizer
    with pytest.raises(BadInput, match="no text of two tokens or more"):
        train_prior(tokenizer, [""], [], SMALL, quietly)
    (tmp_path / "taken").write_text("a file")
    model, _ = train_prior(tokenizer, ["one text"], [], SMALL, quietly)
    with pytest.raises(RunFailed, match="could not write"):
        save_prior(tmp_path / "taken" / "prior", model, tokenizer, {})
