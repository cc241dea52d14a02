"""Weights: from a seed, in and out of the workspace, and which of them train."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.errors import BadInput, MalformedMessage
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.types import Parameters
from tests.conftest import Adapt, Gradient

TINY = ["bert-tiny", "gpt2-tiny", "llama-tiny"]


def equal(some: Parameters, other: Parameters) -> bool:
    return list(some) == list(other) and all(torch.equal(some[name], other[name]) for name in some)


@pytest.mark.parametrize(
    ("preset", "prefix", "suffix", "special", "pad"),
    [
        ("gpt2-tiny", (), (), {0}, 0),
        ("llama-tiny", (1,), (), {1, 2}, 2),
        ("bert-tiny", (5,), (6,), {4, 5, 6, 7}, 4),
    ],
)
def test_special_tokens_by_family(
    adapt: Adapt, preset: str, prefix: tuple[int], suffix: tuple[int], special: set[int], pad: int
) -> None:
    # ids by hand: the places in presets.SPECIAL = <|endoftext|> <s> </s> <unk> [PAD] [CLS] [SEP] ..
    model = adapt(preset)
    assert (model.prefix, model.suffix, model.pad) == (prefix, suffix, pad)
    assert model.special == frozenset(special)
    (ids,) = model.tokenizer(["Good morning, Ada."])["input_ids"]
    assert ids[: len(prefix)] == list(prefix) and ids[len(ids) - len(suffix) :] == list(suffix)
    assert model.tokenizer.decode(ids, skip_special_tokens=True) == "Good morning, Ada."


@pytest.mark.parametrize("preset", TINY)
def test_sizes_are_those_of_the_config(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    assert (model.vocabulary, model.width, model.layers, model.positions) == (2048, 192, 4, 256)
    embedded = model.module.get_input_embeddings().weight
    assert embedded.shape == (model.vocabulary, model.width)


@pytest.mark.slow
@pytest.mark.parametrize("preset", TINY)
def test_initial_parameters_follow_the_seed_alone(adapt: Adapt, preset: str) -> None:
    first = adapt(preset).initial_parameters()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    other = load_adapter(ModelSpec(name=f"builtin:{preset}"))
    assert equal(other.initial_parameters(), first)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    drawn = load_adapter(ModelSpec(name=f"builtin:{preset}", seed=2)).initial_parameters()
    matrices = [name for name, tensor in first.items() if tensor.dim() == 2]
    assert matrices and not any(torch.equal(first[name], drawn[name]) for name in matrices)


@pytest.mark.parametrize("preset", TINY)
def test_initial_parameters_do_not_remember_what_was_trained(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    first = model.initial_parameters()
    kept = {name: tensor.clone() for name, tensor in first.items()}
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(1.0)
    assert equal(first, kept)  # copies, not views of the workspace
    assert equal(model.initial_parameters(), kept)


@pytest.mark.parametrize("preset", TINY)
def test_what_was_loaded_is_in_the_workspace_and_stays_the_callers(
    adapt: Adapt, preset: str
) -> None:
    model = adapt(preset)
    wanted = {name: tensor + 0.5 for name, tensor in model.initial_parameters().items()}
    kept = {name: tensor.clone() for name, tensor in wanted.items()}
    module = model.load(wanted)
    assert module is model.module
    assert equal({name: tensor.data for name, tensor in module.named_parameters()}, kept)
    with torch.no_grad():
        next(module.parameters()).zero_()
    assert equal(wanted, kept)


def test_load_refuses_what_the_model_does_not_have(adapt: Adapt) -> None:
    model = adapt("gpt2-tiny")
    good = model.initial_parameters()
    before = {name: tensor.detach().clone() for name, tensor in model.module.named_parameters()}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in good.items()}
    name = "transformer.h.0.attn.c_attn.weight"
    with pytest.raises(MalformedMessage, match=r"GPT2Adapter\('builtin:gpt2-tiny'.*'h.weight'"):
        model.load({**zeros, "h.weight": torch.ones(2)})
    with pytest.raises(
        MalformedMessage, match=rf"'{name}' must have shape \(192, 576\), got \(576, 192\)"
    ):
        model.load({**zeros, name: zeros[name].T})
    with pytest.raises(MalformedMessage, match=rf"1 parameters are missing, first '{name}'"):
        model.load({k: v for k, v in zeros.items() if k != name})
    assert equal(dict(model.module.named_parameters()), before)  # nothing was half loaded


def test_load_takes_a_state_dict_in_which_a_tied_head_travels_twice(adapt: Adapt) -> None:
    model = adapt("gpt2-tiny", task="causal-lm")
    state = {name: tensor + 0.5 for name, tensor in model.build().state_dict().items()}
    assert "lm_head.weight" in state and "lm_head.weight" not in model.trainable()
    module = model.load(state)
    assert equal(module.state_dict(), state)


def small(tmp_path: Path, **config: Any) -> ModelAdapter:
    """Return a GPT-2 of 11 blocks, 8 wide, from a directory."""
    shape = {"n_embd": 8, "n_layer": 11, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    record = {"model_type": "gpt2", "vocab_size": 2048, "n_positions": 32, **shape, **config}
    (tmp_path / "config.json").write_text(json.dumps(record))
    return load_adapter(
        ModelSpec(
            name=str(tmp_path),
            weights="random",
            tokenizer="builtin:gpt2-tiny",
            freeze=("layers.1",),
        )
    )


def test_freezing_block_1_leaves_block_10_to_train(tmp_path: Path) -> None:
    trained = small(tmp_path).trainable()
    blocks = {int(name.split(".")[2]) for name in trained if ".h." in name}
    assert blocks == set(range(11)) - {1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "task", "freeze", "frozen"),
    [  # by hand, from transformers' parameter names
        ("gpt2-tiny", "classification", "embeddings", "transformer.wte. transformer.wpe."),
        ("llama-tiny", "classification", "embeddings", "model.embed_tokens."),
        ("bert-tiny", "classification", "embeddings", "bert.embeddings."),
        ("gpt2-tiny", "classification", "head", "score."),
        ("llama-tiny", "classification", "head", "score."),
        ("llama-tiny", "causal-lm", "head", "lm_head."),
        ("bert-tiny", "classification", "head", "classifier."),
        ("bert-tiny", "masked-lm", "head", "cls."),
        ("gpt2-tiny", "classification", "layers.2", "transformer.h.2."),
        ("llama-tiny", "classification", "layers.2", "model.layers.2."),
        ("bert-tiny", "classification", "layers.2", "bert.encoder.layer.2."),
        ("bert-tiny", "classification", "bert.pooler.*", "bert.pooler."),
        ("gpt2-tiny", "classification", "*.h.3.ln_2.*", "transformer.h.3.ln_2."),
    ],
)
def test_what_is_frozen_neither_trains_nor_travels(
    adapt: Adapt, preset: str, task: str, freeze: str, frozen: str
) -> None:
    everything = adapt(preset, task=task).trainable()
    model = adapt(preset, task=task, freeze=(freeze,))
    expected = [name for name in everything if not name.startswith(tuple(frozen.split()))]
    assert model.trainable() == expected != everything
    assert list(model.initial_parameters()) == expected


def test_groups_and_patterns_add_up_and_the_rest_gets_its_gradient(
    adapt: Adapt, gradient: Gradient
) -> None:
    model = adapt("gpt2-tiny", freeze=("embeddings", "layers.0", "*.ln_1.*"))
    whole = adapt("gpt2-tiny")
    sequences = [(5, 6, 7, 8), (9, 10)]
    part = gradient(model, model.initial_parameters(), sequences)
    full = gradient(whole, whole.initial_parameters(), sequences)
    gone = ("transformer.wte", "transformer.wpe", "transformer.h.0.")
    assert list(part) == [n for n in full if not n.startswith(gone) and ".ln_1." not in n]
    for name, tensor in part.items():  # what is frozen changes no other gradient
        assert torch.equal(tensor, full[name])


@pytest.mark.parametrize(
    ("freeze", "near"), [("embedings", "embeddings"), ("layers.4", "layers.3"), ("haed", "head")]
)
def test_freezing_what_is_not_there_names_the_nearest(adapt: Adapt, freeze: str, near: str) -> None:
    wanted = rf"model.freeze: unknown parameters '{freeze}'; did you mean '{near}'\?"
    with pytest.raises(BadInput, match=wanted):
        adapt("gpt2-tiny", freeze=(freeze,)).trainable()


def test_freezing_a_head_that_is_tied_does_not_suggest_itself(adapt: Adapt) -> None:
    with pytest.raises(BadInput, match=r"model.freeze: (?!.*did you mean 'head')"):
        adapt("gpt2-tiny", task="causal-lm", freeze=("head",)).trainable()


def test_freezing_everything_is_bad_input(adapt: Adapt) -> None:
    with pytest.raises(BadInput, match=r"model.freeze: nothing is left to train with \['\*'\]"):
        adapt("llama-tiny", freeze=("*",)).trainable()


@pytest.mark.parametrize(
    ("preset", "task", "can"),
    [
        ("gpt2-tiny", "masked-lm", "causal-lm or classification"),
        ("llama-tiny", "masked-lm", "causal-lm or classification"),
        ("bert-tiny", "causal-lm", "classification or masked-lm"),
    ],
)
def test_a_task_that_the_family_cannot_do_is_bad_input(
    adapt: Adapt, preset: str, task: str, can: str
) -> None:
    family = preset.removesuffix("-tiny")
    with pytest.raises(BadInput, match=rf"a {family} model can do {can}, got '{task}'"):
        adapt(preset, task=task)


def test_a_head_has_as_many_rows_as_labels(adapt: Adapt) -> None:
    parameters = adapt("gpt2-tiny", num_labels=5).initial_parameters()
    assert parameters["score.weight"].shape == (5, 192)


def test_a_spec_becomes_json_and_names_itself(adapt: Adapt) -> None:
    spec = ModelSpec(name="builtin:gpt2-tiny", freeze=("head", "layers.0"), lora_rank=2)
    record = json.loads(json.dumps(spec.as_dict()))
    lists: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    assert ModelSpec(**lists) == spec
    assert repr(adapt("gpt2-tiny")) == "GPT2Adapter('builtin:gpt2-tiny', task='classification')"


@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
def test_decisions_are_those_of_each_text_alone(adapt: Adapt, preset: str) -> None:
    """Texts of one length run together, and come back in the order they were given."""
    model = adapt(preset, num_labels=3)
    parameters = model.initial_parameters()
    texts = [(5, 400, 6), (5, 401, 402, 403, 6), (5, 404, 6), (5, 405, 406, 407, 6)]
    name, states, logits = model.decisions(parameters, texts)
    assert states.shape == (4, parameters[name].shape[1]) and logits.shape == (4, 3)
    module: Any = model.load(parameters).eval()
    with torch.no_grad():
        alone = torch.cat([module(input_ids=torch.tensor([tokens])).logits for tokens in texts])
    torch.testing.assert_close(logits, alone, atol=1e-6, rtol=1e-5)
    head = torch.nn.functional.linear(
        states,
        parameters[name],
        module.get_parameter(bias)
        if (bias := name.replace("weight", "bias")) in parameters
        else None,
    )
    torch.testing.assert_close(head, logits, atol=1e-6, rtol=1e-5)
