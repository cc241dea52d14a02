"""The matching attacks: what they recover where it is easy, and what they refuse."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks import Attack, Dlg, Grab, Lamp, Partial, Tag
from fedsim.errors import BadInput, UnsupportedObservation
from fedsim.messages import Reconstruction
from fedsim.models import ModelSpec, load_adapter
from tests.attacks.conftest import Batch, Look
from tests.conftest import Adapt

QUICK: dict[str, Any] = {"steps": 30, "starts": 4, "tries": 4, "learning_rate": 0.1}


def run(attack: Attack, batch: Batch, seed: int = 1) -> Reconstruction:
    return attack.reconstruct(batch.observation, torch.Generator().manual_seed(seed))


def share(guess: Reconstruction, batch: Batch) -> float:
    """Return the share of the free places that were read right."""
    pairs = [
        pair
        for text, truth in zip(guess.sequences, batch.sequences, strict=True)
        for pair in zip(text, truth, strict=True)
        if pair[1] not in batch.observation.model.special
    ]
    return sum(token == true for token, true in pairs) / len(pairs)


@pytest.mark.slow
def test_lamp_reads_random_tokens_of_an_encoder_and_says_how(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (8,))
    guess = run(Lamp(**QUICK), batch)
    assert share(guess, batch) >= 0.8
    assert guess.diagnostics["prior"] is False and guess.diagnostics["labels_granted"] is True
    assert 0 <= guess.diagnostics["distance"] < 0.1


@pytest.mark.slow
def test_lamp_reads_without_labels_and_lengths(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (8,), granted=())
    guess = run(Lamp(**QUICK), batch)
    assert share(guess, batch) >= 0.8 and guess.diagnostics["labels_inferred"] is True


@pytest.mark.slow
def test_lamp_optimises_labels_that_the_update_does_not_place(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (5, 7), granted=("lengths",))
    guess = run(Lamp(**{**QUICK, "steps": 60}), batch)
    assert guess.diagnostics["labels_inferred"] is False
    bags = [
        set(text) & set(truth) for text, truth in zip(guess.sequences, batch.sequences, strict=True)
    ]
    assert sum(map(len, bags)) > 2 * 2 + 3  # [CLS], [SEP] and some of eight tokens


@pytest.mark.slow
def test_lamp_reads_a_trained_llamas_next_token_loss(shared: Any, look: Look) -> None:
    model = load_adapter(
        ModelSpec(name=str(shared("data/models/stories260K-hf")), task="causal-lm")
    )
    batch = look(model, (6,), granted=("lengths",))
    guess = run(Lamp(**{**QUICK, "steps": 50}), batch)
    chance = 1 / model.vocabulary
    assert share(guess, batch) > 20 * chance


@pytest.mark.slow
def test_lamp_stops_when_nothing_changes_any_more(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (6,))
    settings = {**QUICK, "steps": 300, "every": 5, "starts": 2, "tries": 2}
    assert run(Lamp(**settings), batch).diagnostics["steps"] < 300
    assert run(Lamp(**{**settings, "steps": 30, "patience": 0}), batch).diagnostics["steps"] == 30


@pytest.mark.slow
def test_lamp_rearranges_as_often_as_it_is_told(adapt: Adapt, look: Look) -> None:
    """Every ``every`` steps from a tenth of all on, the first time one step late."""
    batch = look(adapt("bert-tiny"), (8,))
    rearranged = []
    for every in (1, 3, 100):
        settings = {**QUICK, "tries": 8, "steps": 10, "every": every, "patience": 0}
        rearranged.append(run(Lamp(**settings), batch).diagnostics["rearranged"])
    # steps 1 to 9, steps 1, 4, 7, step 1: up to 8 candidates each, none scored twice
    assert 3 * 8 < rearranged[0] <= 9 * 8 and 8 < rearranged[1] <= 3 * 8 and 0 < rearranged[2] <= 8


@pytest.mark.slow
def test_the_l2l1_variant_of_lamp_reads(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (6,))
    weights = {"alpha_nats": 60.0, "alpha_norm": 25.0}
    guess = run(Lamp(distance="l2l1", **{**QUICK, **weights}), batch)
    assert share(guess, batch) >= 0.5


def test_tags_l1_term_is_weighed_by_layer_linearly(adapt: Adapt, look: Look) -> None:
    """Of four layers from the whole factor to ``last`` of it: 1, 0.8, 0.6, 0.4."""
    observation = look(adapt("bert-tiny"), (6,)).observation
    factors = Tag(factor=3.0, last=0.4)._distance(observation, observation.update.tensors).l1
    named = {
        "bert.embeddings.word_embeddings.weight": 3.0,
        "bert.encoder.layer.0.output.dense.weight": 3.0,
        "bert.encoder.layer.1.output.dense.weight": 2.4,
        "bert.encoder.layer.2.output.dense.weight": 1.8,
        "bert.encoder.layer.3.output.dense.weight": 1.2,
        "classifier.weight": 1.2,
    }
    assert {name: factors[name] for name in named} == pytest.approx(named)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_dlg_goes_down(adapt: Adapt, look: Look, optimizer: Any) -> None:
    batch = look(adapt("bert-tiny"), (6,))
    rate = 0.05 if optimizer == "adam" else 1.0
    attack = Dlg(optimizer=optimizer, learning_rate=rate, deviation=0.05)
    few, more = (run(replace(attack, steps=n), batch).diagnostics["distance"] for n in (2, 40))
    assert more < 0.7 * few


@pytest.mark.slow
def test_grab_reads_more_where_it_learns_the_clients_dropout(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny", freeze=("embeddings",)), (6,), dropout=True)
    settings: dict[str, Any] = {"alternations": 1, "steps": 20, "starts": 2, "learning_rate": 0.1}
    settings |= {"iterations": 1, "beams": 1}
    learnt = run(Grab(**settings), batch)
    assert learnt.diagnostics["learns_dropout"] is True
    off = run(Grab(learn_dropout=False, **settings), batch)
    assert off.diagnostics["learns_dropout"] is False
    assert learnt.diagnostics["distance"] < off.diagnostics["distance"]


@pytest.mark.slow
def test_grab_reads_by_the_cosine_distance_too(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (6, 5))
    settings: dict[str, Any] = {"alternations": 1, "steps": 25, "starts": 2, "learning_rate": 0.1}
    settings |= {"iterations": 1, "beams": 1, "distance": "cosine", "alpha_norm": 1.0}
    assert share(run(Grab(**settings), batch), batch) >= 0.5


@pytest.mark.parametrize(
    ("modules", "count"),
    [((), 2 * 16), (("q",), 2), (("q", "k", "v"), 6), (("o",), 2), (("f",), 2), (("p",), 2),
     (("o", "p"), 4)],
)  # fmt: skip
def test_partial_matches_what_it_is_asked_to(
    adapt: Adapt, look: Look, modules: tuple[str, ...], count: int
) -> None:
    batch = look(adapt("bert-tiny"), (6,))
    attack = Partial(layers=(1, 3), modules=modules, **{**QUICK, "steps": 1, "starts": 1})
    tensors = run(attack, batch).diagnostics["tensors"]
    assert tensors == count - (2 if not modules else 0)  # the key biases are rounding
    names = attack._names(batch.observation)
    assert all(".layer.1." in name or ".layer.3." in name for name in names)
    if modules == ("p",):
        assert not [name for name in names if "attention" in name]


@pytest.mark.slow
def test_partial_reads_from_one_layer(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (7,))
    assert share(run(Partial(layers=(1,), **QUICK), batch), batch) >= 0.6


def test_partial_reads_lora_adapters_and_fused_maps(adapt: Adapt, look: Look) -> None:
    lora = look(adapt("llama-tiny", lora_rank=4), (6,))
    names = Partial(modules=("q",))._names(lora.observation)
    assert len(names) == 8 and all(".lora_" in name and "q_proj" in name for name in names)
    gpt2 = look(adapt("gpt2-tiny"), (6,))
    assert len(Partial(modules=("q", "k", "v"))._names(gpt2.observation)) == 4
    with pytest.raises(UnsupportedObservation, match=r"q, k and v in one matrix.*got q"):
        run(Partial(modules=("q",)), gpt2)


def test_partial_refuses_what_is_not_there(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny", freeze=("layers.1",)), (6,))
    with pytest.raises(UnsupportedObservation, match=r"layers must be in \[0, 4\).*got 7"):
        run(Partial(layers=(7,)), batch)
    with pytest.raises(
        UnsupportedObservation, match=r"holds nothing of the layers 1: they are froz"
    ):
        run(Partial(layers=(1,)), batch)
    with pytest.raises(
        UnsupportedObservation, match=r"layer.1.intermediate.dense.weight.*is frozen"
    ):
        run(Partial(layers=(1,), modules=("f",)), batch)


@pytest.mark.parametrize(
    ("preset", "asked", "message"),
    [
        ("bert-tiny", {"layers": (7,)}, r"attack partial: layers must be in \[0, 4\).*got 7"),
        ("bert-tiny", {"layers": (1,)}, "attack partial: .*nothing of the layers 1: they are froz"),
        ("bert-tiny", {"layers": (1,), "modules": ("f",)}, r"layer.1.inter.*weight' is frozen"),
        ("gpt2-tiny", {"modules": ("q",)}, "attack partial: .*holds q, k and v in one matrix"),
        ("bert-tiny", {"modules": ("f",)}, r"layer.1.inter.*weight' is frozen"),
    ],
)
def test_what_partial_cannot_match_is_said_before_a_run(
    adapt: Adapt, preset: str, asked: dict[str, Any], message: str
) -> None:
    model = adapt(preset, freeze=("layers.1",))
    Partial(layers=(0, 2)).check(model)
    with pytest.raises(BadInput, match=message):
        Partial(**asked).check(model)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Dlg, {"steps": 0}, "steps must be > 0, got 0"),
        (Dlg, {"deviation": 0.0}, "deviation must be > 0"),
        (Tag, {"learning_rate": -1.0}, "learning_rate must be > 0"),
        (Tag, {"factor": -0.1}, "factor must be >= 0"),
        (Dlg, {"optimizer": "sgd"}, "optimizer must be adam or lbfgs, got 'sgd'"),
        (Tag, {"learning_rate": math.nan}, "learning_rate must be > 0, got nan"),
        (Tag, {"factor": math.inf}, "factor must be >= 0, got inf"),
        (Lamp, {"starts": 0}, "starts must be > 0"),
        (Lamp, {"distance": "l1"}, "distance must be cosine or l2l1, got 'l1'"),
        (Lamp, {"tries": -1}, "tries must be >= 0"),
        (Lamp, {"prior": "nowhere"}, "prior must be a directory.*got 'nowhere'"),
        (Partial, {"modules": ("w",)}, "modules must be of q, k, v, o, f, p, got 'w'"),
        (Partial, {"layers": (-1,)}, "layers count from 0, got -1"),
        (Grab, {"distance": "l2"}, "distance must be cosine or l2l1, got 'l2'"),
        (Grab, {"beams": 0}, "beams must be > 0"),
        (Grab, {"patience": -1}, "patience must be >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(
    kind: type[Attack], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_a_silent_update_gives_nothing(adapt: Adapt, look: Look) -> None:
    observation = look(adapt("bert-tiny"), (6,)).observation
    nothing = {
        name: torch.zeros_like(tensor) for name, tensor in observation.update.tensors.items()
    }
    silent = replace(observation, update=replace(observation.update, tensors=nothing))
    for attack in (Dlg(), Tag(), Lamp(), Grab()):
        assert attack.reconstruct(silent, torch.Generator()).sequences == ()


def test_an_update_of_the_token_embeddings_alone_is_refused(adapt: Adapt, look: Look) -> None:
    """Silence would say that nothing leaks, of a bag of words in the open."""
    observation = look(adapt("bert-tiny"), (6,)).observation
    name = "bert.embeddings.word_embeddings.weight"
    alone = replace(observation.update, tensors={name: observation.update.tensors[name]})
    with pytest.raises(UnsupportedObservation, match="more than the token embeddings"):
        Lamp().reconstruct(replace(observation, update=alone), torch.Generator())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "task", "steps"),
    [
        ("bert-tiny", "masked-lm", 30),
        ("gpt2-tiny", "causal-lm", 40),
        ("llama-tiny", "causal-lm", 80),
    ],
)
def test_lamp_reads_the_other_tasks_whose_labels_it_optimises(
    adapt: Adapt, look: Look, preset: str, task: str, steps: int
) -> None:
    batch = look(adapt(preset, task=task), (9,), granted=("lengths",))
    guess = run(Lamp(**{**QUICK, "steps": steps, "starts": 8}), batch)
    assert share(guess, batch) >= 0.5
