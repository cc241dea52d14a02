"""Each adaptive loss is (near) least at the true input, and much larger elsewhere."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.matching import L2, L2L1, Cosine, Kept, Problem, TokenScores, WrongSigns
from attacks.matching.adaptive import adapted
from defenses import DPSGD, Defense, Gaussian, RandomMask, Sign, TopK
from defenses.base import Here, Memory
from fedsim.effects import Signs, Zeroes
from fedsim.local import LocalTraining
from fedsim.messages import Knowledge
from fedsim.training import Examples, TrainingSettings
from tests.attacks.conftest import Batch, Look
from tests.conftest import Adapt


def defended(batch: Batch, defense: Defense, tensors: dict[str, Tensor]) -> Batch:
    observation = batch.observation
    knowledge = replace(observation.knowledge, defense=defense.effects())
    update = replace(observation.update, tensors=tensors)
    return replace(batch, observation=replace(observation, update=update, knowledge=knowledge))


def at_truth_and_elsewhere(
    batch: Batch, make: Any, names: list[str] | None = None
) -> tuple[float, float]:
    problem = Problem(batch.observation, torch.Generator().manual_seed(0), lambda _: make, names)
    labels = torch.tensor(batch.labels)
    truth = problem.score(problem.engine.embed(batch.ids[None]), labels)
    others = problem.score(problem.gaussian(5, torch.Generator().manual_seed(1), 0.03), labels)
    return float(truth), float(others.min())


@pytest.mark.parametrize("make", [Cosine(), L2L1(l1={}, power=2)])
def test_signs(adapt: Adapt, look: Look, make: Any) -> None:
    batch = look(adapt("bert-tiny"), (8, 6))
    tensors = {name: tensor.sign() for name, tensor in batch.observation.update.tensors.items()}
    truth, others = at_truth_and_elsewhere(defended(batch, Sign(), tensors), make)
    assert truth < 1e-3 < 0.05 < others  # key biases are rounding: their signs are of noise


@pytest.mark.slow
@pytest.mark.parametrize("defense", [TopK(fraction=0.1), RandomMask(fraction=0.1)])
@pytest.mark.parametrize("make", [Cosine(), L2()])
def test_zeroed_entries(adapt: Adapt, look: Look, defense: Defense, make: Any) -> None:
    batch = look(adapt("bert-tiny"), (8, 6))
    tensors = {}
    for place, (name, full) in enumerate(batch.observation.update.tensors.items()):
        generator = torch.Generator().manual_seed(place)
        keep = (torch.rand(full.shape, generator=generator) < 0.1).float()
        largest = isinstance(defense, TopK)
        keep /= 1.0 if largest else 0.1  # a random mask is scaled, so that it is unbiased
        if largest:
            keep = full.abs() >= full.abs().flatten().quantile(0.9) if full.numel() < 1e6 else keep
        tensors[name] = full * keep
    truth, others = at_truth_and_elsewhere(defended(batch, defense, tensors), make)
    oblivious = replace(
        batch,
        observation=replace(
            batch.observation, update=replace(batch.observation.update, tensors=tensors)
        ),
    )
    assert truth < 1e-3 * others
    assert at_truth_and_elsewhere(oblivious, make)[0] > 100 * abs(truth)


def test_clipping(adapt: Adapt, look: Look) -> None:
    """Clipped by hand, one example after the other, over all parameters."""
    model = adapt("bert-tiny")
    batch = look(model, (8, 6))
    parts = []
    for row in range(2):
        alone = {}
        module = model.load(batch.observation.broadcast.parameters)
        module.zero_grad()
        module(
            **model.batch([batch.sequences[row]], [batch.labels[row]], torch.Generator())
        ).loss.backward()
        alone = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        module.zero_grad()
        parts.append(alone)
    norms = [torch.stack([g.norm() for g in part.values()]).norm().item() for part in parts]
    clip = 0.5 * min(norms)
    tensors = {
        name: sum(part[name] * clip / norm for part, norm in zip(parts, norms, strict=True)) / 2
        for name in batch.observation.update.tensors
    }
    known = defended(batch, DPSGD(clip=clip), tensors)
    truth, others = at_truth_and_elsewhere(known, L2())
    plain = replace(
        known, observation=replace(known.observation, knowledge=batch.observation.knowledge)
    )
    assert truth < 1e-3 * at_truth_and_elsewhere(plain, L2())[0]
    assert truth < 1e-2 * others
    part = ["bert.encoder.layer.1.attention.self.query.weight"]  # clipped by the norm of all
    truth, others = at_truth_and_elsewhere(known, L2(), part)
    assert truth < 1e-3 * at_truth_and_elsewhere(plain, L2(), part)[0] and truth < 1e-2 * others


@pytest.mark.slow
@pytest.mark.parametrize("clip", [0.5, 1e9])  # one that all reach, one that none does
@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny"])
def test_clipping_of_a_language_models_update_by_the_defense_itself(
    adapt: Adapt, look: Look, preset: str, clip: float
) -> None:
    """There an example's loss is a mean over its own tokens, which differ in number."""
    model = adapt(preset, task="causal-lm")
    batch = look(model, (4, 10), granted=("lengths",))
    training = TrainingSettings()
    here = Here(
        round=1, held=2, expected=2, training=training, memory=Memory(),
        generator=torch.Generator(),
    )  # fmt: skip
    local = DPSGD(noise_multiplier=0.0, clip=clip).begin(here).wrap(LocalTraining(model, training))
    tensors, _ = local(
        batch.observation.broadcast.parameters,
        Examples(sequences=batch.sequences, labels=(None, None)),
        torch.Generator(),
    )
    known = defended(batch, DPSGD(clip=clip), tensors)
    problem = Problem(known.observation, torch.Generator(), lambda _: L2())
    truth = problem.score(problem.engine.embed(batch.ids[None]), batch.ids[None])
    whole = sum(float(tensor.square().sum()) for tensor in problem.observed.values())
    assert abs(float(truth)) < 5e-3 * whole  # GPT-2's head is its embedding: the norm lacks it


@pytest.mark.slow
@pytest.mark.parametrize("defense", [Sign(), TopK(), DPSGD(clip=1e9)])  # a norm that none reaches
def test_tokens_are_scored_by_the_adapted_distance_too(
    adapt: Adapt, look: Look, defense: Defense
) -> None:
    """GRAB's beam search: told of a defense, the truth is best, where parts no longer add up."""
    batch = look(adapt("bert-tiny"), (8, 6))
    tensors = dict(batch.observation.update.tensors)
    if isinstance(defense, Sign):
        tensors = {name: full.sign() * full.abs().mean() for name, full in tensors.items()}
    elif isinstance(defense, TopK):
        tensors = {
            name: full * (full.abs() >= full.abs().max() / 10) for name, full in tensors.items()
        }
    known = defended(batch, defense, tensors)
    problem = Problem(
        known.observation,
        torch.Generator(),
        lambda names: L2L1(l1=dict.fromkeys(names, 0.0), power=1),
    )
    scores = TokenScores(problem, torch.tensor(batch.labels))
    trials = batch.ids[0].repeat(4, 1)
    trials[1, 3], trials[2, 5], trials[3, 1] = 700, 800, 900
    distances = scores.replaced(batch.ids, 0, trials)
    assert problem.notes["adapts"] and distances[0] < 0.1 * distances[1:].min()
    batches = batch.ids.repeat(4, 1, 1)
    batches[:, 0] = trials
    torch.testing.assert_close(distances, scores.whole(batches), atol=1e-5, rtol=1e-4)
    x = problem.engine.embed(batches)
    wanted = torch.cat([problem.score(tokens[None], torch.tensor(batch.labels)) for tokens in x])
    torch.testing.assert_close(distances, wanted, atol=1e-5, rtol=1e-4)


def test_noise_that_is_known_changes_no_distance(adapt: Adapt, look: Look) -> None:
    batch = look(adapt("bert-tiny"), (6,))
    known = defended(batch, Gaussian(), dict(batch.observation.update.tensors))
    problem = Problem(known.observation, torch.Generator(), lambda _: Cosine())
    assert problem.notes["adapts"] is False


def test_without_knowledge_nothing_changes(adapt: Adapt, look: Look) -> None:
    observation = look(adapt("bert-tiny"), (6,)).observation
    assert adapted(Cosine(), observation) == Cosine()
    told = replace(observation, knowledge=Knowledge(defense=()))
    assert adapted(Cosine(), told) == Cosine()
    both = Knowledge(defense=(Zeroes(), Signs()))
    assert adapted(L2L1(l1={"a": 0.1}), replace(observation, knowledge=both)) == Kept(
        distance=WrongSigns(l1=0.1)
    )
