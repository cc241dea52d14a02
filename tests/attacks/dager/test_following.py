"""Last tokens, which only the head tells: sure where no other token would have done as well."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from fedsim.messages import Broadcast, Observation, Update
from fedsim.models import ModelAdapter
from fedsim.training import TrainingSettings
from fedsim.types import Tokens
from tests.attacks.dager.seen import read, seen, sure
from tests.attacks.scene import PRESETS
from tests.conftest import Adapt, initial

HEADS = {"gpt2-tiny": "transformer.wte.weight", "llama-tiny": "lm_head.weight"}


def near_twin(model: ModelAdapter, preset: str, twin: int, off: float) -> Mapping[str, Tensor]:
    """Return weights in which ``twin``'s row of the head is token 500's, but for that share."""
    parameters = initial(model)
    rows = parameters[HEADS[preset]].clone()
    noise = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(twin))
    rows[twin] = rows[500] + off * rows[500].norm() * noise / noise.norm()
    return {**parameters, HEADS[preset]: rows}


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("twin", "off"), [(400, 0.0), (1900, 0.0), (400, 1e-3), (1900, 1e-2)])
def test_a_last_token_that_another_may_stand_for_is_not_sure(
    adapt: Adapt, preset: str, twin: int, off: float
) -> None:
    model = adapt(preset, task="causal-lm")
    parameters = near_twin(model, preset, twin, off)
    text, other = (*model.prefix, 300, 700, 600, 500), (*model.prefix, 310, 710, 610)
    beside = (*model.prefix, 300, 700, 600, 910)  # the same prefix: two last tokens
    for truth in ([text], [text, other], [text, text, beside]):
        guess = read(seen(model, parameters, truth, [None] * len(truth)))
        assert not sure(guess) and guess.diagnostics["alike"] == 1
        assert {tokens[:-1] for tokens in guess.sequences} == {tokens[:-1] for tokens in truth}
    guess = read(seen(model, parameters, [other, beside], [None] * 2))  # holds neither
    assert sorted(guess.sequences) == sorted([other, beside]) and sure(guess)


@pytest.mark.parametrize("preset", PRESETS)
def test_one_that_goes_on_hides_no_twin_that_ends(adapt: Adapt, preset: str) -> None:
    model = adapt(preset, task="causal-lm")
    parameters = near_twin(model, preset, 400, 0.0)
    truth = [(*model.prefix, 300, 500, 700), (*model.prefix, 300, 400)]
    guess = read(seen(model, parameters, truth, [None] * 2))
    assert not sure(guess) and guess.diagnostics["alike"] >= 1


def stepped(model: ModelAdapter, steps: Sequence[Sequence[Tokens]], size: int) -> Observation:
    """Return a delta of so small a rate that all its ``steps`` are at the same weights."""
    parameters, rate = initial(model), 1e-5
    gradients = [seen(model, parameters, batch, [0] * len(batch)).update.tensors for batch in steps]
    delta = {name: -rate * sum(g[name].double() for g in gradients) for name in gradients[0]}
    settings = TrainingSettings(algorithm="fedavg", mini_batch_size=size, learning_rate=rate)
    return Observation(
        model=model,
        broadcast=Broadcast(round=1, parameters=parameters, config=settings.as_config()),
        update=Update(
            tensors={name: torch.as_tensor(tensor) for name, tensor in delta.items()},
            kind="delta",
            num_examples=sum(map(len, steps)),
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_shares_of_several_steps_count_no_copies(adapt: Adapt, preset: str) -> None:
    model = adapt(preset, task="causal-lm")
    a, b = (*model.prefix, 300, 700, 600, 510), (*model.prefix, 333, 444)
    c = (*model.prefix, 355, 455, 655, 755)
    for steps in ([[a, a], [b]], [[a, b], [a]]):
        guess = read(stepped(model, steps, len(steps[0])))
        assert not sure(guess) and guess.diagnostics["above_floor"] == 2
        assert a in guess.sequences and any(
            s[:-1] == b[:-1] or s == b[:-1] for s in guess.sequences
        )
    guess = read(stepped(model, [[a], [c]], 1))
    assert sorted(guess.sequences) == sorted([a, c]) and sure(guess)
    guess = read(stepped(model, [[a, a, b]], 4))  # one step: its shares are even
    assert sorted(guess.sequences) == sorted([a, a, b]) and sure(guess)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_classifiers_shares_of_uneven_steps_count_no_copies(adapt: Adapt, preset: str) -> None:
    model = adapt(preset)
    a, b = (*model.prefix, 300, 700, 600, 510), (*model.prefix, 333, 444)
    for steps in ([[a, a, a, a], [b, b]], [[a, a], [b]]):  # one each, or three, or four and two
        guess = read(stepped(model, steps, len(steps[0])))
        assert not sure(guess) and set(guess.sequences) == {a, b}
    guess = read(stepped(model, [[a, a], [a, b]], 2))
    assert sorted(guess.sequences) == sorted([a, a, a, b]) and sure(guess)
