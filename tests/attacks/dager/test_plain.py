"""The paper's own algorithms, written plainly, read what the attack reads.

What each should give is the batch itself first: where both give that, they do not agree by chance.
"""

import pytest
import torch
from torch import Tensor

from attacks import Dager
from attacks.dager.plain import CHUNK, PlainDager, distance, projector
from fedsim.models import ModelAdapter
from fedsim.types import Tokens
from tests.attacks.scene import PRESETS
from tests.conftest import Adapt, Gradient, Observe, Sentences, initial


def read_by_both(
    model: ModelAdapter, update: dict[str, Tensor], observe: Observe, examples: int
) -> tuple[list[Tokens], list[Tokens]]:
    """Return what the plain attack and the fast one read of ``update``, sorted."""
    observation = observe(model, initial(model), update, examples=examples)
    fast = Dager().reconstruct(observation, torch.Generator().manual_seed(0)).sequences
    return sorted(PlainDager().run(observation)), sorted(fast)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("count", "skip"), [(1, 0), (2, 100), (4, 200)])
@pytest.mark.slow
def test_the_plain_attack_and_the_fast_one_read_the_same_sentences(
    adapt: Adapt,
    gradient: Gradient,
    observe: Observe,
    sentences: Sentences,
    preset: str,
    count: int,
    skip: int,
) -> None:
    model = adapt(preset)
    truth = sentences(model, count, skip=skip)
    update = gradient(model, initial(model), truth)
    plain, fast = read_by_both(model, update, observe, count)
    assert plain == fast == sorted(truth)


@pytest.mark.parametrize("preset", PRESETS)
def test_common_beginnings_and_a_cycle_are_told_apart_by_both(
    adapt: Adapt, gradient: Gradient, observe: Observe, preset: str
) -> None:
    model = adapt(preset)
    start = model.prefix  # a cycle in the graph of tokens and positions: 400 and 500, 2 and 3
    truth = [(*start, 400, 500, 600), (*start, 500, 400, 700, 600), (*start, 400, 500, 800)]
    update = gradient(model, initial(model), truth)
    plain, fast = read_by_both(model, update, observe, len(truth))
    assert plain == fast == sorted(truth)


def test_what_is_in_no_span_is_read_by_neither(
    adapt: Adapt, gradient: Gradient, observe: Observe, sentences: Sentences
) -> None:
    model = adapt("gpt2-tiny")
    update = gradient(model, initial(model), sentences(model, 2))
    for weight in model.projections(0):
        noise = torch.randn(update[weight.name].shape, generator=torch.Generator().manual_seed(0))
        update[weight.name] = noise
    plain, fast = read_by_both(model, update, observe, 2)
    assert plain == fast == []


def test_the_distance_is_the_sine_of_the_angle() -> None:
    # by hand: (3, 4, 0) is at 53.13 degrees from the x axis, its sine 4 / 5
    axis = torch.diag(torch.tensor([1.0, 0.0, 0.0]))
    sines = distance(torch.tensor([[3.0, 4.0, 0.0], [7.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), axis)
    torch.testing.assert_close(sines, torch.tensor([0.8, 0.0, 1.0]))


def test_the_projector_leaves_inputs_as_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(7, 40, generator=generator, dtype=torch.float64)
    errors = torch.randn(7, 60, generator=generator, dtype=torch.float64)
    onto, rank = projector(inputs.T @ errors)  # theorem 5.1: dL/dW = X^T dL/dY
    assert rank == 7
    torch.testing.assert_close(inputs.float() @ onto, inputs.float(), rtol=0, atol=1e-4)


def test_candidates_are_run_in_chunks_and_all_of_them(adapt: Adapt, gradient: Gradient) -> None:
    model = adapt("gpt2-tiny")
    (f1,) = model.trunks(initial(model), 1)
    everything = torch.arange(model.vocabulary)
    sentences: list[Tokens] = []
    steps = PlainDager().grow((), [everything], f1, torch.eye(model.width), sentences, places=True)
    with torch.no_grad():
        chunks = [size for _, size, _ in steps]
    assert chunks == [CHUNK, CHUNK, model.vocabulary - 2 * CHUNK]
    assert sentences == [
        (token,) for token in range(model.vocabulary)
    ]  # all are in the whole space
