"""What inspect says of projects' captures is what dager then does with them."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from attacks.dager import Dager
from fedsim.captures import find_captures, read_capture
from fedsim.errors import UnsupportedObservation
from fedsim.lab.inspect import Inspection, inspect_captures
from fedsim.lab.run.foreign import fit
from fedsim.messages import Observation
from tests.lab.inspect.said import named_in, shown
from tests.lab.run.projects import TEXTS, adapters, capture, classifier, lora, named, saved

pytestmark = pytest.mark.slow  # projects that train


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "gpt2", "gpt2-tiny")


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory, gpt2: str) -> tuple[Path, Inspection]:
    """LoRA of rank 16 and a text of 15 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    whole = "The spare key hangs behind the clock and Orla owes the baker nine coins"
    text = str(tokenizer.decode(list(tokenizer(whole)["input_ids"])[:15]))
    assert len(tokenizer(text)["input_ids"]) == 15
    build = functools.partial(
        lora, r=16, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True
    )
    root = tmp_path_factory.mktemp("thin") / "captures"
    capture(root, gpt2, build, adapters, texts={0: [text]})
    return root, inspect_captures(root)


ALONE = {0: TEXTS[0]}


def test_decay_of_whole_weights_is_taken_off_as_dager_does(
    tmp_path: Path, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So strong that it is louder than the gradient, and the weights themselves are normal."""
    plain = capture(tmp_path / "plain", gpt2, classifier, named, texts=ALONE)
    plain_steps = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", functools.partial(plain_steps, weight_decay=1.0))
    root = capture(tmp_path / "captures", gpt2, classifier, named, texts=ALONE)
    found = inspect_captures(root)
    assert not found.hidden and not found.adam and not found.filled and not found.vague
    assert found.rank == inspect_captures(plain).rank
    (moved,) = root.rglob("update.safetensors")
    name = "transformer.h.0.mlp.c_fc.weight"
    sent, delta = (
        load_file(moved.parent / f"{what}.safetensors")[name].flatten()
        for what in ("broadcast", "update")
    )
    assert torch.nn.functional.cosine_similarity(delta, -sent, 0) > 0.5  # decay is most of it


def test_an_input_less_than_the_rank_is_counted_and_too_many(
    thin: tuple[Path, Inspection],
) -> None:
    """15 of 16 dimensions, of which dager keeps two for noise, and one: by the tokenizer."""
    _, found = thin
    assert (found.rank, found.most, found.crowded) == ([15], 13, 1)
    assert not found.filled and not found.vague and not found.hidden
    told = shown(found)
    assert "15 inputs of block 0 stand out, of 16 that can; in 1 of 1 they are more than" in told
    assert "dager needs" not in told and "filled" not in told and "nothing shows" not in told


def test_clients_of_16_bits_lose_inputs_and_it_is_said(tmp_path: Path, gpt2: str) -> None:
    """A step of 0.05 moves a weight by far less than bfloat16's last bit; one of 30 by far more."""

    def halved(where: str) -> nn.Module:
        return classifier(where).bfloat16()

    def states(module: nn.Module) -> dict[str, Tensor]:
        return {name: tensor.float() for name, tensor in module.state_dict().items()}

    for rate, hidden in ((0.05, ["16 bits"]), (30.0, [])):
        root = capture(tmp_path / f"{rate}", gpt2, halved, states, rate=rate, texts=ALONE)
        found = inspect_captures(root)
        assert named_in(found) == hidden and found.vague == len(hidden)
        assert ("inputs that change them by less" in shown(found)) == bool(hidden)
        assert ("dager needs at most 171" in shown(found)) != bool(hidden)
        assert (found.rank[0] < 20) if hidden else (30 <= found.rank[0] <= 33)


def test_adapters_that_no_encoders_sentence_can_be_read_of(tmp_path: Path) -> None:
    """What peft adapts of a BERT by default: dager refuses it, and inspect says so before."""
    bert = saved(tmp_path / "bert", "bert-tiny")
    build = functools.partial(lora, r=64, lora_alpha=64, target_modules=["query", "value"])
    root = capture(tmp_path / "captures", bert, build, adapters, texts={0: ["The key."]})
    found = inspect_captures(root)
    assert found.lacking == 1 and "block 0's attention output or MLP" in next(iter(found.hidden))
    captured = read_capture(find_captures(root)[0])
    model = fit(captured, {"name": bert, "lora_alpha": 64}, {})
    read = model.read(captured)
    seen = Observation(model=model.adapter, broadcast=read.broadcast, update=read.update)
    with pytest.raises(UnsupportedObservation, match="an encoder's sentences need the update"):
        Dager().reconstruct(seen, torch.Generator().manual_seed(1))


def test_what_the_server_says_of_dropout_and_of_steps_is_no_open_question(
    tmp_path: Path, thin: tuple[Path, Inspection]
) -> None:
    root, unsaid = tmp_path / "captures", thin[1]
    assert "whether dropout was on" in shown(unsaid) and "a client took" not in shown(unsaid)
    shutil.copytree(thin[0], root)
    (record,) = root.glob("round=*/client=*/observation.json")
    for said in (True, False):
        config = {"dropout": said, "local-epochs": 4, "batch-size": 1, "lr": 0.1}
        record.write_text(json.dumps(json.loads(record.read_text()) | {"config": config}))
        told = shown(inspect_captures(root))
        assert ("dropout is on, as the server says" in told) == said
        assert "whether dropout was on" not in told
        assert "a client took 4 steps" in told  # of one text


@pytest.mark.parametrize("change", [lambda sent: sent.double() * 1e300, lambda sent: sent / 0])
def test_weights_that_no_model_has_are_named(
    tmp_path: Path, thin: tuple[Path, Inspection], change: Callable[[Tensor], Tensor]
) -> None:
    root = tmp_path / "captures"
    shutil.copytree(thin[0], root)
    (path,) = root.rglob("broadcast.safetensors")
    save_file({name: change(t) for name, t in load_file(path).items()}, path)
    (word,) = inspect_captures(root).hidden
    assert "the training went astray" in word and not thin[1].hidden
