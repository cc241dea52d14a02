"""Labels are read where the update tells them, and left to be optimised where it does not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.matching.frame import Frame, find_frame
from attacks.reads.labels import _random_texts
from attacks.reads.slopes import Slope, _by_states, find_slope
from defenses import DPSGD, Defense, RandomMask, Sign
from fedsim.messages import Broadcast, Knowledge, Observation, Update
from fedsim.models import ModelAdapter
from tests.attacks.conftest import Batch, Look, random_texts
from tests.conftest import Adapt, initial

Change = Callable[[Tensor], Tensor]


def frame(observation: Observation) -> Frame:
    return find_frame(observation, torch.Generator().manual_seed(0))


def labels(
    batch: Batch, change: Change = lambda tensor: tensor, known: Defense | None = None
) -> list[int] | None:
    """Return what is read after ``change`` of every tensor, by a defense that is perhaps known."""
    observation = batch.observation
    tensors = {name: change(tensor) for name, tensor in observation.update.tensors.items()}
    knowledge = replace(observation.knowledge, defense=None if known is None else known.effects())
    changed = replace(
        observation, update=replace(observation.update, tensors=tensors), knowledge=knowledge
    )
    read = frame(changed)
    assert read.notes["labels_inferred"] is (read.labels is not None)
    return None if read.labels is None else read.labels.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
@pytest.mark.parametrize("truth", [(1,), (0,), (0, 0), (0, 1), (1, 1), (0, 0, 0, 0), (0, 0, 0, 1)])
@pytest.mark.parametrize("count", [2, 5])
def test_labels_are_read_right_or_not_at_all(
    adapt: Adapt, look: Look, preset: str, truth: tuple[int, ...], count: int
) -> None:
    batch = look(
        adapt(preset, num_labels=count), (9,) * len(truth), labels=truth, granted=("lengths",)
    )
    read = labels(batch)
    surely = {"bert-tiny": 4, "gpt2-tiny": 2, "llama-tiny": 1}[preset]  # whose head has no bias
    assert read == [*truth] or (read is None and len(truth) > surely)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1e3, 1e4])
def test_the_scale_of_an_update_makes_no_label_of_another(
    adapt: Adapt, look: Look, preset: str, scale: float
) -> None:
    """Of one text the label shows at any scale; of several the counts hang on it."""
    model = adapt(preset, num_labels=3)
    for truth, wanted in (((2,), [2]), ((0, 0), None), ((0, 1), None), ((2, 1, 1, 1), None)):
        batch = look(model, (9,) * len(truth), labels=truth, granted=("lengths",))
        assert labels(batch, lambda tensor: scale * tensor) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny"])
def test_a_random_mask_that_is_known_is_undone(adapt: Adapt, look: Look, preset: str) -> None:
    read = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        mask = RandomMask(fraction=0.5)
        batch = look(adapt(preset), (9, 9), labels=(1, 1), granted=("lengths",), seed=seed)
        read.append(
            labels(
                batch,
                lambda tensor, m=mask, g=generator: m.protect({"": tensor}, g)[""],  # type: ignore[misc]
                mask,
            )
        )
    assert [1, 1] in read and all(some in ([1, 1], None) for some in read)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
@pytest.mark.parametrize("truth", [(1, 1), (0, 1)])
def test_what_a_defense_scales_is_not_counted(
    adapt: Adapt, look: Look, preset: str, truth: tuple[int, ...]
) -> None:
    """A mask that is not known, signs, and clipping that is told of leave the scale open."""
    batch = look(adapt(preset), (9, 9), labels=truth, granted=("lengths",))
    generator = torch.Generator().manual_seed(0)
    mask, sign = RandomMask(fraction=0.5), Sign()
    assert labels(batch, lambda tensor: mask.protect({"": tensor}, generator)[""]) is None
    assert labels(batch, lambda tensor: sign.protect({"": tensor}, generator)[""]) is None
    assert labels(batch, known=DPSGD()) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_tell_no_labels(adapt: Adapt, look: Look, value: float) -> None:
    batch = look(adapt("bert-tiny"), (9, 9), granted=("lengths",))
    assert labels(batch, lambda tensor: tensor * value) is None


@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
@pytest.mark.parametrize("size", [1, 2])
def test_under_noise_no_labels_are_read(adapt: Adapt, look: Look, preset: str, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = look(adapt(preset), (9,) * size, granted=("lengths",))
    assert labels(batch, lambda x: x + 9 * torch.randn(x.shape, generator=generator)) is None


@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny"])
def test_the_slope_is_the_mean_of_shares_less_labels(adapt: Adapt, look: Look, preset: str) -> None:
    """Against what the model itself says of the true texts."""
    model, truth = adapt(preset, num_labels=3), (0, 2, 2)
    batch = look(model, (9, 7, 8), labels=truth, granted=("lengths",))
    parameters = batch.observation.broadcast.parameters
    _, states, logits = model.decisions(parameters, batch.sequences)
    wanted = (logits.double().softmax(dim=1) - torch.eye(3)[list(truth)]).mean(dim=0)
    slope = find_slope(batch.observation, states, 3)
    assert slope is not None and slope.noise < 1e-4
    torch.testing.assert_close(slope.values, wanted, atol=1e-5, rtol=0)


def test_one_label_of_a_head_without_a_bias_is_read_whatever_the_states() -> None:
    """The rank-one gradient (p - y) h^T: its sign is that with one negative entry."""
    from attacks.reads.slopes import _of_one

    state = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sign in (1, -1):
        shares = torch.tensor([0.1, 0.6 - 1, 0.3], dtype=torch.float64)
        slope = _of_one(shares[:, None] * sign * state)
        assert slope is not None and slope.label() == 1
    assert _of_one(torch.ones(2, 7, dtype=torch.float64)) is None  # two labels: either sign fits


def test_a_slope_that_could_be_noise_has_no_label() -> None:
    values = torch.tensor([0.2, -0.5, 0.3])
    assert Slope(values=values, noise=0.0).label() == 1
    assert Slope(values=values, noise=0.2).label() is None
    assert Slope(values=values, noise=0.0, spread=0.4).label() is None
    assert Slope(values=torch.tensor([-0.2, -0.3, 0.5]), noise=0.0).label() is None


@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny"])
def test_an_adapter_is_not_taken_for_a_frozen_head_of_its_size(adapt: Adapt, preset: str) -> None:
    """LoRA of rank 2 and two labels: both maps are to two outputs."""
    model: ModelAdapter = adapt(preset, num_labels=2, lora_rank=2, freeze=("head",))
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: 0.02 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in initial(model).items()
    }
    assert any("lora_A" in name for name in parameters)
    observation = Observation(
        model=model,
        broadcast=Broadcast(round=1, parameters=parameters),
        update=Update(tensors=parameters, kind="gradient", num_examples=2),
        knowledge=Knowledge(lengths=(9, 9)),
    )
    assert frame(observation).labels is None
    assert "score" in model.ending()[1]  # peft keeps a copy of the head


def test_random_texts_are_like_the_batchs(adapt: Adapt, look: Look) -> None:
    model = adapt("bert-tiny")
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    observation = look(model, (5, 3)).observation
    texts = _random_texts(observation, mask, torch.Generator().manual_seed(0))
    assert {len(text) for text in texts} == {5, 3}
    assert {(text[0], text[-1]) for text in texts} == {(5, 6)}  # [CLS] and [SEP] of the presets
    assert not {id_ for text in texts for id_ in text[1:-1]} & model.special
    assert random_texts(model, (5,))[0][0] == 5


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("preset", ["bert-tiny", "gpt2-tiny"])
def test_weight_decay_hides_neither_labels_nor_lengths(
    adapt: Adapt, look: Look, preset: str, decay: float
) -> None:
    batch = look(
        adapt(preset),
        (8, 8),
        labels=(0, 1),
        granted=(),
        algorithm="fedavg",
        mini_batch_size=2,
        learning_rate=1e-2,
        weight_decay=decay,
    )
    assert labels(batch) == [0, 1]
    assert frame(batch.observation).mask.shape == (2, 8)


def test_the_share_that_a_known_mask_keeps_is_in_the_slope(adapt: Adapt, look: Look) -> None:
    """GPT-2's last norm has 192 biases, each masked or doubled: solved, they give the slope."""
    observation = look(adapt("gpt2-tiny"), (9, 9), labels=(1, 1), granted=("lengths",)).observation
    generator = torch.Generator().manual_seed(0)
    mask = RandomMask(fraction=0.5)
    masked = mask.protect(observation.update.tensors, generator)
    known = replace(
        observation,
        update=replace(observation.update, tensors=masked),
        knowledge=replace(observation.knowledge, defense=mask.effects()),
    )
    states = torch.ones(2, 192)
    plain, undone = find_slope(observation, states, 2), find_slope(known, states, 2)
    assert plain is not None and undone is not None
    torch.testing.assert_close(undone.values, plain.values, atol=1e-4, rtol=0)


def test_a_state_of_the_other_class_flips_no_label() -> None:
    """Random texts all look like class 0, this one like class 1: h points the other way."""
    generator = torch.Generator().manual_seed(0)
    sent = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]).double()  # reads the first place only
    around = 0.01 * torch.randn(32, 4, generator=generator).double()
    states = torch.tensor([3.0, 1.0, 0, 0]) + around
    state = torch.tensor([-3.0, 1.0, 0.05, 0.05]).double()
    weight = torch.tensor([0.4, -0.4]).double()[:, None] * state  # p - y of label 1
    slope = _by_states(weight, states, sent, 1)
    assert slope is not None and slope.label() == 1
