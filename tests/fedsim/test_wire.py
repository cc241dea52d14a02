"""Messages to Flower's records and back."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedsim.errors import MalformedMessage
from fedsim.messages import Broadcast, Update
from fedsim.tap.keys import ARRAYS, CONFIG, EXAMPLES, METRICS, ROUND, UPDATE, sent_round
from fedsim.training import TrainingSettings
from fedsim.wire import (
    difference,
    read_broadcast,
    read_partition,
    read_update,
    to_arrays,
    to_tensors,
    train_config,
    update_content,
    update_kind,
    whoami_content,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sent(**parameters: Tensor) -> Broadcast:
    return Broadcast(round=1, parameters=parameters)


def stock_reply(arrays: dict[str, Tensor], **metrics: Any) -> RecordDict:
    """What a stock Flower client answers: weights and metrics, under names of its own."""
    return RecordDict(
        {"arrays": to_arrays(arrays), "metrics": MetricRecord({EXAMPLES: 3, **metrics})}
    )


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_tensors_travel_bit_for_bit(dtype: torch.dtype) -> None:
    tensors = {
        "turned": (100 * drawn(5, 3)).to(dtype).T,
        "b.a": drawn(2).to(dtype),
        "none": torch.empty(0, 3, dtype=dtype),
    }
    record = to_arrays(tensors)
    assert list(record) == list(tensors)
    for name, array in record.items():  # the oracle: Flower's own reading
        assert np.array_equal(array.numpy(), tensors[name].numpy())
    read = to_tensors(record)
    for name, tensor in tensors.items():
        assert read[name].dtype == dtype and torch.equal(read[name], tensor)


def test_a_single_number_keeps_its_shape() -> None:
    assert to_tensors(to_arrays({"scale": torch.tensor(1.5)}))["scale"].shape == ()


def test_a_tensor_read_from_a_record_is_its_readers_own() -> None:
    record = to_arrays({"w": torch.ones(3)})
    to_tensors(record)["w"].zero_()
    assert torch.equal(to_tensors(record)["w"], torch.ones(3))


def test_a_trained_parameter_travels_as_its_value() -> None:
    parameter = torch.nn.Parameter(drawn(4))
    assert torch.equal(to_tensors(to_arrays({"w": parameter}))["w"], parameter.detach())


@pytest.mark.parametrize("kind", ["gradient", "delta"])
def test_an_update_comes_back(kind: Any) -> None:
    update = Update(
        tensors={"w": drawn(3, 2)}, kind=kind, num_examples=7, metrics={"train_loss": 0.1}
    )
    content = update_content(update)
    assert update_kind(content) == kind
    read = read_update(content, sent(w=torch.zeros(3, 2)))
    assert torch.equal(read.tensors["w"], update.tensors["w"])
    assert (read.kind, read.num_examples) == (kind, 7)
    assert read.metrics == {"train_loss": 0.1}


def test_flowers_strategies_find_the_weight_of_a_reply() -> None:
    content = update_content(Update(tensors={}, kind="delta", num_examples=7))
    assert content.metric_records[METRICS]["num-examples"] == 7  # FedAvg's default key


def test_a_stock_reply_with_weights_becomes_a_delta() -> None:
    before, after = drawn(3, 2), drawn(3, 2, seed=1)
    read = read_update(stock_reply({"w": after}, loss=0.5), sent(w=before))
    assert read.kind == "delta" and read.num_examples == 3 and read.metrics == {"loss": 0.5}
    # float32 rounding of the exact difference; numpy in float64 is the oracle
    exact = after.numpy().astype(np.float64) - before.numpy().astype(np.float64)
    assert np.array_equal(read.tensors["w"].numpy(), exact.astype(np.float32))
    assert update_kind(stock_reply({"w": after})) is None


def test_the_difference_of_float16_weights_is_not_rounded_to_float16() -> None:
    # 1 + 2^-10 is the float16 after 1, and 1/4096 is exact: their exact difference needs more bits
    local, start = torch.tensor([1.0009765625]).half(), torch.tensor([1 / 4096]).half()
    delta = difference({"w": local}, {"w": start})["w"]
    assert delta.dtype == torch.float32
    assert delta.item() == 1.0009765625 - 1 / 4096


def test_counters_are_no_update() -> None:
    steps = {"w": torch.ones(2), "steps": torch.tensor(5), "mask": torch.tensor([True])}
    assert list(difference(steps, steps)) == ["w"]


def test_arrays_that_were_never_sent_are_malformed() -> None:
    with pytest.raises(MalformedMessage, match=r"never sent: \['v'\]"):
        read_update(stock_reply({"w": torch.ones(2), "v": torch.ones(2)}), sent(w=torch.ones(2)))


@pytest.mark.parametrize("shape", [(4,), (1,), (3, 1), ()])
def test_weights_of_another_shape_than_was_sent_are_malformed(shape: tuple[int, ...]) -> None:
    with pytest.raises(MalformedMessage, match="'w'"):
        read_update(stock_reply({"w": torch.ones(shape)}), sent(w=torch.ones(3)))


@pytest.mark.parametrize("count", [0, 2])
def test_a_message_holds_exactly_one_array_record(count: int) -> None:
    records: dict[str, Any] = {f"arrays{i}": to_arrays({"w": torch.ones(2)}) for i in range(count)}
    content = RecordDict({**records, "metrics": MetricRecord({EXAMPLES: 1})})
    with pytest.raises(MalformedMessage, match=rf"reply must hold exactly one .*, got {count}"):
        read_update(content, sent(w=torch.ones(2)))
    with pytest.raises(MalformedMessage, match=rf"broadcast must hold exactly one .*, got {count}"):
        read_broadcast(content, 1)


@pytest.mark.parametrize("kind", ["weights", "The patient is Ada.", 3, None])
def test_an_update_of_an_unknown_kind_is_malformed(kind: Any) -> None:
    record = ConfigRecord({} if kind is None else {"kind": kind})
    content = RecordDict({ARRAYS: to_arrays({}), METRICS: MetricRecord({}), UPDATE: record})
    with pytest.raises(MalformedMessage, match="update kind must be gradient or delta, got "):
        read_update(content, sent())


@pytest.mark.parametrize("examples", [math.nan, math.inf, -1])
def test_an_impossible_number_of_examples_is_malformed(examples: float) -> None:
    content = update_content(Update(tensors={}, kind="delta", num_examples=1))
    content.metric_records[METRICS][EXAMPLES] = examples
    with pytest.raises(MalformedMessage, match=r"num.examples"):
        read_update(content, sent())


def test_a_reply_that_does_not_say_how_many_examples_has_none() -> None:
    content = RecordDict({"a": to_arrays({"w": torch.ones(2)}), "m": MetricRecord({"loss": 1.0})})
    assert read_update(content, sent(w=torch.ones(2))).num_examples == 0


def test_text_in_a_reply_goes_no_further() -> None:
    content = update_content(Update(tensors={}, kind="delta", num_examples=1))
    content["notes"] = ConfigRecord({"text": "The patient is Ada.", "bytes": b"Ada"})
    content["more"] = MetricRecord({"history": [1.0, 2.0], "loss": 0.5})
    read = read_update(content, sent())
    assert read.metrics == {"loss": 0.5}
    assert "Ada" not in repr(read)


def test_a_broadcast_comes_back_with_every_training_setting() -> None:
    settings = TrainingSettings(algorithm="fedavg", learning_rate=1e-4, dropout=True)
    config = train_config({**settings.as_config(), ROUND: 4})
    content = RecordDict({ARRAYS: to_arrays({"w": drawn(2, 3)}), CONFIG: config})
    assert sent_round(content) == 4
    broadcast = read_broadcast(content, 4)
    assert broadcast.round == 4 and torch.equal(broadcast.parameters["w"], drawn(2, 3))
    assert TrainingSettings.from_config(broadcast.config) == settings


def test_the_proximal_term_that_fedprox_sends_is_a_training_setting() -> None:
    config = ConfigRecord({**TrainingSettings().as_config(), "proximal-mu": 0.25})
    broadcast = read_broadcast(RecordDict({"a": to_arrays({}), "c": config}), 1)
    assert TrainingSettings.from_config(broadcast.config) == TrainingSettings(proximal_mu=0.25)


def test_a_broadcast_leaves_lists_and_bytes_out_of_its_config() -> None:
    config = ConfigRecord({"lr": 0.5, "name": "sgd", "many": [1, 2], "raw": b"x", "on": True})
    broadcast = read_broadcast(RecordDict({"a": to_arrays({}), "c": config}), 1)
    assert broadcast.config == {"lr": 0.5, "name": "sgd", "on": True}


def test_a_message_that_names_no_round_has_none() -> None:
    assert sent_round(RecordDict({"c": ConfigRecord({"lr": 0.5}), "a": ArrayRecord()})) is None


def test_a_client_tells_its_partition() -> None:
    assert read_partition(whoami_content(13)) == 13


def test_any_array_record_will_do_whatever_its_key() -> None:
    array = Array(np.arange(6, dtype=np.float32).reshape(2, 3))
    broadcast = read_broadcast(RecordDict({"weights of mine": ArrayRecord({"w": array})}), 1)
    assert torch.equal(broadcast.parameters["w"], torch.arange(6.0).view(2, 3))
