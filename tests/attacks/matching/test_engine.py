"""Dummies' gradients against those of the client's own training code, and against autograd."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.matching import tokens
from attacks.matching.distances import L2, Cosine
from attacks.matching.engine import Engine, Masks
from attacks.matching.frame import find_frame
from attacks.matching.problem import Problem
from attacks.matching.tokens import TokenScores
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation
from fedsim.models import ModelSpec, load_adapter
from tests.attacks.conftest import Batch, Look
from tests.conftest import Adapt

LENGTHS = (7, 10, 5)


def engine_of(batch: Batch) -> Engine:
    observation = batch.observation
    return Engine(observation, find_frame(observation, torch.Generator()))


def targets_of(batch: Batch) -> Tensor:
    if batch.observation.model.spec.task == "classification":
        return torch.tensor(batch.labels)
    return batch.ids[None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "fields"),
    [
        ("bert-tiny", {}),
        ("gpt2-tiny", {}),
        ("llama-tiny", {}),
        ("gpt2-tiny", {"task": "causal-lm"}),
        ("llama-tiny", {"task": "causal-lm"}),
        ("bert-tiny", {"freeze": ("embeddings",), "num_labels": 5}),
        ("gpt2-tiny", {"lora_rank": 4}),
        ("llama-tiny", {"lora_rank": 4}),
    ],
)
def test_at_the_clients_own_texts_the_gradient_is_the_clients(
    adapt: Adapt, look: Look, preset: str, fields: dict[str, object]
) -> None:
    batch = look(adapt(preset, **fields), LENGTHS)
    engine = engine_of(batch)
    ids = batch.ids[None]  # (1, B, T)
    factors = engine.factors(engine.embed(ids), targets_of(batch), ids=ids)
    update = batch.observation.update.tensors
    tied = {n for n in update if n.endswith(("wte.weight", "embed_tokens.weight"))}
    if preset != "gpt2-tiny" or "task" not in fields:  # GPT-2's head is its embedding
        tied = set()
    if preset == "llama-tiny":
        tied = set()
    assert set(factors) == set(update) - tied
    for name, factor in factors.items():
        wanted = update[name]
        got = factor.dense(wanted.shape)[0]
        scale = wanted.abs().max().clamp_min(1e-6)
        torch.testing.assert_close(got / scale, wanted / scale, atol=2e-4, rtol=1e-3)


def test_a_part_of_the_batch_gives_its_part_of_the_gradient(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), LENGTHS)
    engine = engine_of(batch)
    x, labels = engine.embed(batch.ids[None]), torch.tensor(batch.labels)
    whole = engine.factors(x, labels)
    first = engine.factors(x[:, :1], labels[:1], rows=[0])
    rest = engine.factors(x[:, 1:], labels[1:], rows=[1, 2])
    for name, factor in whole.items():
        shape = batch.observation.update.tensors[name].shape
        sums = first[name].dense(shape) + rest[name].dense(shape)
        torch.testing.assert_close(sums, factor.dense(shape), atol=1e-6, rtol=1e-3)


def test_a_replaced_sequence_is_scored_as_the_whole_batch_is(adapt: Adapt, look: Look) -> None:
    """Against plain back-propagation of the whole batch, word embeddings included."""
    batch = look(adapt("bert-tiny"), LENGTHS)
    problem = Problem(batch.observation, torch.Generator(), lambda _: L2(power=1))
    scores = TokenScores(problem, torch.tensor(batch.labels))
    trials = batch.ids[1].repeat(3, 1)
    trials[1, 4], trials[2, 2] = 777, 1234
    distances = scores.replaced(batch.ids, 1, trials)
    module = batch.observation.model.module
    slots = dict(module.named_parameters())
    update = batch.observation.update.tensors
    assert set(scores.observed) == {n for n in update if not n.endswith("key.bias")}
    for trial, got in zip(trials, distances.tolist(), strict=True):
        ids = batch.ids.clone()
        ids[1] = trial
        mask = problem.frame.mask.long()
        loss = module(input_ids=ids, attention_mask=mask, labels=torch.tensor(batch.labels)).loss
        names = list(scores.observed)
        gradients = torch.autograd.grad(loss, [slots[name] for name in names])
        parts = [(g - update[n]).norm() for n, g in zip(names, gradients, strict=True)]
        wanted = torch.stack(parts).sum().item()
        assert got == pytest.approx(wanted, rel=1e-3, abs=1e-5)
        assert scores.whole(ids[None])[0].item() == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    before = scores.computed
    assert torch.equal(scores.replaced(batch.ids, 1, trials), distances)
    assert scores.computed == before  # nothing is computed twice


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "task"),
    [("gpt2-tiny", "causal-lm"), ("llama-tiny", "causal-lm"), ("bert-tiny", "masked-lm")],
)
def test_a_replaced_sequence_of_another_task_is_scored_as_the_whole_batch_is(
    adapt: Adapt, look: Look, preset: str, task: str
) -> None:
    """Sequences of several lengths: a shorter one is scored without the padding."""
    batch = look(adapt(preset, task=task), LENGTHS, granted=("lengths",))
    problem = Problem(batch.observation, torch.Generator(), lambda _: L2(power=1))
    scores = TokenScores(problem, problem.first_targets(1))
    for row in range(len(LENGTHS)):
        trials = batch.ids[row].repeat(2, 1)
        trials[1, 2] = 777
        batches = batch.ids.repeat(2, 1, 1)
        batches[:, row] = trials
        distances = scores.replaced(batch.ids, row, trials)
        torch.testing.assert_close(distances.double(), scores.whole(batches), atol=1e-4, rtol=1e-4)
    if task == "causal-lm":  # its targets are its own tokens: at the truth nothing is left
        assert distances[0] < 1e-2 * distances[1]


@pytest.mark.slow
def test_what_is_kept_of_sequences_is_bounded(
    adapt: Adapt, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = look(adapt("bert-tiny"), LENGTHS)
    problem = Problem(batch.observation, torch.Generator(), lambda _: L2(power=1))
    monkeypatch.setattr(tokens, "KEPT", 2**22)  # a few sequences' gradients
    monkeypatch.setattr(tokens, "KNOWN", 10)
    scores = TokenScores(problem, torch.tensor(batch.labels))
    for word in range(700, 720):
        ids = batch.ids.clone()
        ids[1, 3] = word
        trials = ids[0].repeat(4, 1)
        trials[:, 2] = torch.arange(4) + word
        first = scores.replaced(ids, 0, trials)
        assert torch.equal(scores.replaced(ids, 0, trials), first)
        assert scores._held <= 2**22 and len(scores._known) <= 10
    held = sum(tokens._bytes(part) for part in scores._parts.values())
    assert held == scores._held > 0


@pytest.mark.parametrize("preset", ["bert-tiny", "llama-tiny"])
def test_candidates_do_not_touch_one_another(adapt: Adapt, look: Look, preset: str) -> None:
    batch = look(adapt(preset), LENGTHS)
    problem = Problem(batch.observation, torch.Generator().manual_seed(3), lambda _: Cosine())
    x = problem.gaussian(4, torch.Generator().manual_seed(5), 0.1)
    together = problem.score(x, torch.tensor(batch.labels))
    alone = [problem.score(dummies[None], torch.tensor(batch.labels)) for dummies in x]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def naive(batch: Batch, engine: Engine, x: Tensor, names: list[str]) -> Tensor:
    """Return the squared distance by plain double back-propagation over whole matrices."""
    observation = batch.observation
    module = observation.model.module
    slots = dict(module.named_parameters())
    loss = module(inputs_embeds=x[0], labels=torch.tensor(batch.labels)).loss
    gradients = torch.autograd.grad(loss, [slots[name] for name in names], create_graph=True)
    update = observation.update.tensors
    parts = [(g - update[n]).square().sum() for n, g in zip(names, gradients, strict=True)]
    return torch.stack(parts).sum()


def test_the_slope_is_that_of_plain_double_back_propagation(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (6, 6))
    problem = Problem(batch.observation, torch.Generator(), lambda _: L2())
    x = problem.gaussian(1, torch.Generator().manual_seed(2), 0.3).requires_grad_()
    loss = problem.loss(x, torch.tensor(batch.labels)).sum()
    wanted = naive(batch, problem.engine, x, list(problem.observed))
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=0)
    (got,), (slope,) = torch.autograd.grad(loss, x), torch.autograd.grad(wanted, x)
    torch.testing.assert_close(got, slope, rtol=1e-2, atol=1e-3 * slope.abs().max().item())


def test_dropout_masks_are_the_clients_own(adapt: Adapt, look: Look) -> None:
    model = adapt("bert-tiny")
    batch = look(model, (6, 9), dropout=False)
    engine = engine_of(batch)
    masks = engine.dropout_masks(torch.Generator().manual_seed(1))
    assert len(masks) == 2 + 3 * model.layers  # embeddings, head; attention's two and the MLP's
    x, labels = engine.embed(batch.ids[None]), torch.tensor(batch.labels)
    module = model.module
    module.train()
    module.zero_grad()
    with Masks(list(masks)):
        module(**model.batch(batch.sequences, batch.labels, torch.Generator())).loss.backward()
    module.eval()
    wanted = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    kept = [mask.clone() for mask in masks]
    for name, factor in engine.factors(x, labels, masks=masks).items():
        got = factor.dense(wanted[name].shape)[0]
        scale = wanted[name].abs().max().clamp_min(1e-6)
        torch.testing.assert_close(got / scale, wanted[name] / scale, atol=1e-3, rtol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(masks, kept, strict=True))
    assert not module.training and 0.8 < torch.cat([m.flatten() for m in masks]).mean() < 0.97


def test_an_engine_is_stale_once_other_weights_are_loaded(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (6,))
    engine = engine_of(batch)
    sent = batch.observation.broadcast.parameters
    batch.observation.model.load({name: tensor + 1e-6 for name, tensor in sent.items()})
    with pytest.raises(RuntimeError, match=r"other weights were loaded .* this engine was made"):
        engine.factors(engine.embed(batch.ids[None]), torch.tensor(batch.labels))


def test_a_parameter_of_no_module_or_of_several_is_refused(look: Look) -> None:
    model = load_adapter(ModelSpec(name="builtin:bert-tiny"))  # its own: it is spoilt below
    batch = look(model, (6,))
    frame = find_frame(batch.observation, torch.Generator())
    with pytest.raises(UnsupportedObservation, match="belongs to no module"):
        Engine(batch.observation, frame, ["nowhere.weight"])
    module: Any = model.module
    layers = module.bert.encoder.layer
    layers[1].attention.self.query.weight = layers[0].attention.self.query.weight
    name = "bert.encoder.layer.0.attention.self.query.weight"
    with pytest.raises(UnsupportedObservation, match=f"'{name}'.*belongs to Linear, Linear"):
        Engine(batch.observation, frame, [name], whole=True)
    assert Engine(batch.observation, frame, [name]).left_out == {name: "Linear, Linear"}


def test_of_a_module_that_runs_twice_the_gradients_add_up(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_adapter(ModelSpec(name="builtin:bert-tiny"))
    batch, logits = look(model, (6,)), model.logits
    engine = engine_of(batch)
    x, labels = engine.embed(batch.ids[None]), torch.tensor(batch.labels)
    once = engine.factors(x, labels)
    monkeypatch.setattr(model, "logits", lambda x, mask: (logits(x, mask) + logits(x, mask)) / 2)
    for name, factor in engine.factors(x, labels).items():
        shape = batch.observation.update.tensors[name].shape
        torch.testing.assert_close(factor.dense(shape), once[name].dense(shape))


def test_orders_of_a_start_stay_within_their_sentences(adapt: Adapt, look: Look) -> None:
    """Each sentence keeps its own vectors at its free places: none becomes padding or [SEP]."""
    batch = look(adapt("bert-tiny"), (4, 9))
    problem = Problem(batch.observation, torch.Generator(), lambda _: Cosine())
    x = problem.gaussian(1, torch.Generator().manual_seed(1))
    moved = problem.shuffled(x, 30, torch.Generator().manual_seed(2))
    assert moved.shape == (31, *x.shape[1:]) and torch.equal(moved[0], x[0])
    for row, free in enumerate(problem.frame.free):
        own = sorted(x[0, row, free, 0].tolist())
        assert all(sorted(dummies[row, free, 0].tolist()) == own for dummies in moved)
    assert len({tuple(dummies[1, :, 0].tolist()) for dummies in moved}) > 25  # of 7! orders


def test_the_observation_comes_back_as_it_was(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("gpt2-tiny"), (6, 4))
    observation: Observation = batch.observation
    before = {name: tensor.clone() for name, tensor in observation.update.tensors.items()}
    problem = Problem(replace(observation), torch.Generator(), lambda _: Cosine())
    dummies = problem.gaussian(2, torch.Generator()).requires_grad_()
    problem.loss(dummies, torch.tensor(batch.labels))
    assert all(
        torch.equal(before[name], tensor) for name, tensor in observation.update.tensors.items()
    )
    assert all(parameter.requires_grad for parameter in observation.model.module.parameters())
