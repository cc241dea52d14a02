"""What is granted is used, what is not is read off the update, and nonsense is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks.matching.frame import FREE, find_frame
from attacks.reads.gradient import gradient_of, observed_gradient
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Broadcast, Knowledge, Observation, Update
from tests.attacks.conftest import Look
from tests.conftest import Adapt


def frame(observation: Observation) -> Any:
    return find_frame(observation, torch.Generator().manual_seed(0))


def test_known_places_are_the_special_tokens_and_the_padding(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (4, 6))
    cls, sep, pad = 5, 6, 4  # of the presets' tokenizer
    tokens = frame(batch.observation).tokens
    assert tokens.tolist() == [
        [cls, FREE, FREE, sep, pad, pad],
        [cls, FREE, FREE, FREE, FREE, sep],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "task"),
    [
        ("bert-tiny", "classification"),
        ("bert-tiny", "masked-lm"),
        ("gpt2-tiny", "classification"),
        ("gpt2-tiny", "causal-lm"),  # whose loss never reads the last place
    ],
)
@pytest.mark.parametrize("length", [4, 9, 250, 255])  # of 256 positions
def test_one_texts_length_is_read_off_the_positions(
    adapt: Adapt, look: Look, preset: str, task: str, length: int
) -> None:
    read = frame(look(adapt(preset, task=task), (length,), granted=()).observation)
    assert read.mask.shape == (1, length) and read.exact_lengths


def test_of_several_texts_the_longest_length_is_read(adapt: Adapt, look: Look) -> None:
    read = frame(look(adapt("bert-tiny"), (5, 9, 7), granted=()).observation)
    assert read.mask.shape == (3, 9) and not read.exact_lengths
    assert (read.tokens[:, 1:] == FREE).all()  # where a shorter one ends is not told
    ids = torch.tensor([[5, 700, 701, 6, 9, 9, 9, 9, 6]] * 3)
    assert read.sequences(ids, (6,))[0] == (5, 700, 701, 6)


def test_lengths_are_read_under_noise(adapt: Adapt, look: Look) -> None:
    observation = look(adapt("bert-tiny"), (11,), granted=()).observation
    name = "bert.embeddings.position_embeddings.weight"
    rows = observation.update.tensors[name]
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    noisy = {**observation.update.tensors, name: rows + 0.02 * rows[:11].std() * noise}
    assert frame(with_tensors(observation, noisy)).mask.shape == (1, 11)


def with_tensors(observation: Observation, tensors: dict[str, torch.Tensor]) -> Observation:
    return replace(observation, update=replace(observation.update, tensors=tensors))


@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
@pytest.mark.parametrize("label", [0, 2])
def test_one_label_is_read_off_the_last_map(
    adapt: Adapt, look: Look, preset: str, label: int
) -> None:
    model = adapt(preset, num_labels=3)
    batch = look(model, (9,) * (label + 1))
    module = model.load(batch.observation.broadcast.parameters)
    module.zero_grad()
    inputs = model.batch([batch.sequences[-1]], [label], torch.Generator())
    module(**inputs).loss.backward()
    tensors = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    module.zero_grad()
    observation = replace(
        batch.observation,
        update=Update(tensors=tensors, kind="gradient", num_examples=1),
        knowledge=Knowledge(lengths=(9,)),
    )
    read = frame(observation)
    assert read.labels.tolist() == [label] and read.notes["labels_inferred"]


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny"])
def test_one_label_is_read_off_a_delta_too(
    adapt: Adapt, look: Look, preset: str, label: int
) -> None:
    """A delta goes against the gradient: its sign is the other one."""
    batch = look(adapt(preset, num_labels=3), (9,), labels=(label,), granted=(), algorithm="fedavg")
    assert frame(batch.observation).labels.tolist() == [label]


def test_the_labels_counts_are_read_off_a_delta_too(adapt: Adapt, look: Look) -> None:
    labels = (0, 0, 0, 2, 2)
    batch = look(
        adapt("bert-tiny", num_labels=3), (7,) * 5, labels=labels, granted=("lengths",),
        algorithm="fedavg", mini_batch_size=5, learning_rate=1e-3,
    )  # fmt: skip
    assert frame(batch.observation).labels.tolist() == [*labels]


def test_a_head_without_a_gradient_tells_no_label(adapt: Adapt, look: Look) -> None:
    observation = look(adapt("bert-tiny"), (7,), granted=()).observation
    tensors = {
        name: torch.zeros_like(tensor) if name.startswith("classifier") else tensor
        for name, tensor in observation.update.tensors.items()
    }
    assert frame(with_tensors(observation, tensors)).labels is None


def test_the_labels_counts_are_read_off_the_last_bias(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny", num_labels=3), (7, 7, 7, 7, 7), granted=("lengths",))
    assert frame(batch.observation).labels.tolist() == [0, 0, 1, 1, 2]  # row % 3, ascending


def test_labels_that_the_update_does_not_place_are_left_to_be_optimised(
    adapt: Adapt, look: Look
) -> None:
    assert frame(look(adapt("bert-tiny"), (5, 8), granted=("lengths",)).observation).labels is None
    task = adapt("gpt2-tiny", task="causal-lm")
    assert frame(look(task, (5,), granted=("lengths",)).observation).labels is None


@pytest.mark.parametrize(
    ("knowledge", "message"),
    [
        ({"lengths": (5,)}, "must name 2 lengths, one per example, got 1"),
        ({"lengths": (5, 257)}, r"must be in \[2, 256\], got 257"),
        ({"lengths": (5, 1)}, r"must be in \[2, 256\], got 1"),
        ({"labels": (0, 1, 1)}, "must name 2 labels, one per example, got 3"),
        ({"labels": (0, 2)}, "the model has labels 0 to 1, got 2"),
    ],
)
def test_knowledge_that_does_not_fit_is_refused(
    adapt: Adapt, look: Look, knowledge: dict[str, Any], message: str
) -> None:
    observation = look(adapt("bert-tiny"), (5, 5), granted=()).observation
    with pytest.raises(UnsupportedObservation, match=message):
        frame(replace(observation, knowledge=Knowledge(**knowledge)))


def test_what_cannot_be_known_is_asked_for(adapt: Adapt, look: Look) -> None:
    llama = look(adapt("llama-tiny"), (5,), granted=()).observation
    with pytest.raises(
        UnsupportedObservation, match=r"grant knowledge.lengths, as the update shows"
    ):
        frame(llama)
    hidden = replace(llama.update, num_examples=0)
    with pytest.raises(
        UnsupportedObservation, match=r"grant knowledge.batch_size.*num_examples = 0"
    ):
        frame(replace(llama, update=hidden))
    bert = look(adapt("bert-tiny"), (5,), granted=()).observation
    with pytest.raises(UnsupportedObservation, match=r"nothing to find.*batch_size is 0"):
        frame(replace(bert, knowledge=Knowledge(batch_size=0, lengths=(), labels=())))
    single = look(adapt("bert-tiny", num_labels=1), (5,), granted=("lengths",)).observation
    with pytest.raises(UnsupportedObservation, match=r"two labels or more.*num_labels = 1"):
        frame(single)
    name = "bert.embeddings.position_embeddings.weight"
    flat = {**bert.update.tensors, name: torch.ones_like(bert.update.tensors[name])}
    with pytest.raises(UnsupportedObservation, match=r"no row of 'bert.embeddings.position_embed"):
        frame(with_tensors(bert, flat))


@pytest.mark.parametrize(
    "training",
    [
        {"learning_rate": 1e-3},
        {"learning_rate": 1e-4, "local_epochs": 5},
        {"learning_rate": 3e-5, "local_epochs": 5, "optimizer": "momentum"},
        {"learning_rate": 1e-3, "weight_decay": 0.1},
        {"learning_rate": 1e-4, "local_epochs": 3, "optimizer": "momentum", "weight_decay": 0.01},
    ],
)
def test_a_delta_is_minus_the_learning_rate_and_the_steps_times_a_gradient(
    adapt: Adapt, look: Look, training: dict[str, Any]
) -> None:
    model = adapt("bert-tiny")
    gradient = look(model, (6, 6)).observation
    delta = look(model, (6, 6), algorithm="fedavg", **training).observation
    names = sorted(gradient.update.tensors)
    sent, read = observed_gradient(gradient, names), observed_gradient(delta, names)
    norm = torch.stack([g.norm() for g in sent.values()]).norm()
    rest = torch.stack([(g - read.get(n, torch.zeros_like(g))).norm() for n, g in sent.items()])
    assert rest.norm() < 0.03 * norm  # float32 weights and a step's curvature


@pytest.mark.parametrize(("optimizer", "steps"), [("sgd", 7), ("momentum", 7)])
def test_a_path_is_that_of_the_batch_size_that_is_granted(
    adapt: Adapt, look: Look, optimizer: str, steps: int
) -> None:
    observation = look(
        adapt("bert-tiny"),
        (6,),
        algorithm="fedavg",
        optimizer=optimizer,
        learning_rate=0.5,
        mini_batch_size=8,
    ).observation
    lying = replace(observation.update, num_examples=10**9)
    granted = replace(observation.knowledge, batch_size=8 * steps - 3)
    name = "classifier.weight"
    read = gradient_of(replace(observation, update=lying, knowledge=granted), name)
    m = 0.9 if optimizer == "momentum" else 0.0
    way = sum(0.5 * m**back for step in range(1, steps + 1) for back in range(step))
    torch.testing.assert_close(read, observation.update.tensors[name] / -way)


def test_entries_that_a_defense_left_out_stay_out(adapt: Adapt, look: Look) -> None:
    observation = look(
        adapt("bert-tiny"), (6,), algorithm="fedavg", weight_decay=0.1, learning_rate=0.1
    ).observation
    name = "classifier.weight"
    sent = {**observation.update.tensors, name: observation.update.tensors[name].clone()}
    sent[name][0] = 0.0
    assert not gradient_of(with_tensors(observation, sent), name)[0].any()


def test_a_client_that_states_millions_of_examples_is_refused(adapt: Adapt, look: Look) -> None:
    observation = look(adapt("bert-tiny"), (6,), granted=()).observation
    lying = replace(observation, update=replace(observation.update, num_examples=10**7))
    with pytest.raises(UnsupportedObservation, match=r"at most 16384 tokens, got 10000000 exampl"):
        frame(lying)


def test_a_delta_that_is_no_sum_of_gradients_is_refused(adapt: Adapt, look: Look) -> None:
    observation = look(adapt("bert-tiny"), (6,), algorithm="fedavg", optimizer="adamw").observation
    with pytest.raises(UnsupportedObservation, match=r"optimizer sgd or momentum.*adamw"):
        observed_gradient(observation, list(observation.update.tensors))
    silent = Broadcast(round=1, parameters=observation.broadcast.parameters)
    with pytest.raises(UnsupportedObservation, match=r"does not say learning_rate"):
        observed_gradient(replace(observation, broadcast=silent), list(observation.update.tensors))


def test_an_update_that_says_nothing_usable_is_refused(adapt: Adapt, look: Look) -> None:
    observation = look(adapt("bert-tiny"), (6,)).observation
    with pytest.raises(UnsupportedObservation, match="got one with none"):
        observed_gradient(observation, [])
    name = "classifier.weight"
    huge = {name: 1e30 * torch.ones_like(observation.update.tensors[name])}
    with pytest.raises(UnsupportedObservation, match=r"float32 holds.*of up to 1e\+30"):
        observed_gradient(with_tensors(observation, huge), [name])


def test_what_is_only_rounding_is_left_out(adapt: Adapt, look: Look) -> None:
    observation = look(adapt("bert-tiny"), (6,)).observation
    left = set(observation.update.tensors) - set(
        observed_gradient(observation, list(observation.update.tensors))
    )
    assert left == {f"bert.encoder.layer.{i}.attention.self.key.bias" for i in range(4)}


def test_a_missing_or_frozen_parameter_is_named(adapt: Adapt, look: Look) -> None:
    observation = look(adapt("bert-tiny", freeze=("layers.1",)), (6,)).observation
    name = "bert.encoder.layer.1.attention.self.query.weight"
    with pytest.raises(UnsupportedObservation, match=f"gradient of '{name}', but it is frozen"):
        observed_gradient(observation, [name])
    lacking = {k: v for k, v in observation.update.tensors.items() if k != "classifier.bias"}
    with pytest.raises(
        UnsupportedObservation, match=r"'classifier.bias', which trains, but the upd"
    ):
        observed_gradient(with_tensors(observation, lacking), ["classifier.bias"])
    with pytest.raises(UnsupportedObservation, match=r"unknown parameter 'bert.pooler'"):
        observed_gradient(observation, ["bert.pooler"])
