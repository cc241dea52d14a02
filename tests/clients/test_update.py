"""A client's update: what is trained, noted, cast and refused."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from clients import ClientSettings
from clients.holdings import round_batch
from clients.update import client_update
from fedsim.errors import ClientFailure
from fedsim.local import LocalTraining
from fedsim.models import ModelAdapter
from fedsim.rng import stream
from fedsim.training import Examples, Training, TrainingSettings
from fedsim.types import Parameters
from fedsim.vault.reader import VaultReader
from tests.clients.rounds import Spy, Times, broadcast, instead, noted


def test_the_update_is_that_of_local_training(
    settings: ClientSettings, sent: dict[str, Tensor], adapter: ModelAdapter
) -> None:
    update = client_update(settings, 1, broadcast(sent))
    batch = round_batch(settings, 1, 1)
    expected, loss = LocalTraining(adapter, TrainingSettings())(
        sent, batch, torch.Generator().manual_seed(0)
    )  # without mini-batches, masks and dropout no generator matters
    assert update.kind == "gradient"
    assert update.num_examples == 5
    assert dict(update.metrics) == {"train_loss": pytest.approx(loss, rel=1e-6)}
    assert set(update.tensors) == set(expected)
    for name, tensor in update.tensors.items():
        assert (tensor - expected[name]).abs().max() <= 1e-5 * expected[name].abs().max()


def test_the_kind_says_what_the_arrays_are(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    update = client_update(settings, 1, broadcast(sent, algorithm="fedavg", mini_batch_size=2))
    assert update.kind == "delta"


@pytest.mark.parametrize(("steps", "count"), [(1, 2), (2, 4), (3, 5), (0, 5)])
def test_what_no_step_takes_is_neither_noted_nor_stated(
    settings: ClientSettings, sent: dict[str, Tensor], steps: int, count: int
) -> None:
    asked = broadcast(sent, algorithm="fedavg", mini_batch_size=2, max_steps=steps)
    assert client_update(settings, 1, asked).num_examples == count
    assert len(noted(settings, 1, 1)) == count


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_the_same_broadcast_gives_the_same_bits(
    settings: ClientSettings, sent: dict[str, Tensor], algorithm: str
) -> None:
    asked = broadcast(sent, algorithm=algorithm, dropout=True, mini_batch_size=2)
    first, again = (client_update(settings, 1, asked).tensors for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    later = client_update(settings, 1, replace(asked, round=2)).tensors
    assert any(not torch.equal(first[name], later[name]) for name in first)


def test_dropout_is_another_for_each_client_and_round(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    drawn: list[Tensor] = []

    def draw(*_: Any) -> tuple[dict[str, Tensor], float]:
        drawn.append(torch.rand(3))  # torch's global stream, which dropout draws from
        return {"w": torch.zeros(1)}, 0.0

    watched = replace(settings, defenses=(instead(draw),))
    before = torch.random.get_rng_state()
    for client, round_ in ((1, 1), (1, 1), (2, 1), (1, 2)):
        client_update(watched, client, broadcast(sent, round_))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])
    assert torch.equal(torch.random.get_rng_state(), before)  # the process's own stream is not ours


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_wire_dtype(settings: ClientSettings, sent: dict[str, Tensor], dtype: str) -> None:
    update = client_update(settings, 1, broadcast(sent, wire_dtype=dtype))
    whole = client_update(settings, 1, broadcast(sent))
    assert list(update.tensors) == list(sent)
    for name, tensor in update.tensors.items():
        assert tensor.dtype == getattr(torch, dtype)
        assert torch.equal(tensor, whole.tensors[name].to(tensor.dtype))


def test_the_vault_knows_before_training_starts(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    written: list[Examples] = []

    def boom(parameters: Parameters, examples: Examples, g: torch.Generator) -> Any:
        written.append(noted(settings, 3, 1))
        assert written[0] == examples
        raise RuntimeError("no memory left")

    with pytest.raises(RuntimeError, match="no memory left"):
        client_update(replace(settings, defenses=(instead(boom),)), 1, broadcast(sent, 3))
    assert written == [round_batch(settings, 1, 3)]
    assert noted(settings, 3, 1) == round_batch(settings, 1, 3)  # and it stays


def test_the_vault_knows_the_batch_before_a_defense_touches_it(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    def halved(training: Training) -> Training:
        return lambda p, examples, g: training(p, examples.take([0, 1]), g)

    client_update(replace(settings, defenses=(Spy(inside=halved),)), 1, broadcast(sent))
    assert noted(settings, 1, 1) == round_batch(settings, 1, 1)  # all five


def test_defenses_apply_in_order_each_with_its_own_stream(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    plain = client_update(settings, 1, broadcast(sent)).tensors
    defended = replace(settings, defenses=(Times(factor=3.0), Times(factor=5.0)))
    got = client_update(defended, 1, broadcast(sent)).tensors
    noise = [
        torch.rand(1, generator=stream(2, "client", 1, "round", 1, "defense", place))
        for place in (0, 1)
    ]
    assert noise[0] != noise[1]
    for name, tensor in plain.items():
        assert torch.equal(got[name], ((tensor + noise[0]) * 3.0 + noise[1]) * 5.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_diverged_is_an_error(
    settings: ClientSettings, sent: dict[str, Tensor], loss: float
) -> None:
    broken = replace(settings, defenses=(instead(lambda *_: ({"w": torch.zeros(1)}, loss)),))
    with pytest.raises(ClientFailure, match="training diverged; lower training") as error:
        client_update(broken, 1, broadcast(sent))
    assert str(loss) not in str(error.value)  # the server reads it
    row = VaultReader(settings.vault).measured(1, 1)
    assert row is not None and f"at loss {loss}" in row["error"]


def test_training_that_diverges_is_an_error(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    how: Any = {
        "algorithm": "fedavg",
        "learning_rate": 1e30,
        "mini_batch_size": 2,
        "local_epochs": 2,
    }
    with pytest.raises(ClientFailure, match="training diverged"):
        client_update(settings, 1, broadcast(sent, **how))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_an_error(
    settings: ClientSettings, sent: dict[str, Tensor], bad: float
) -> None:
    # The last step comes after the last loss: weights can diverge behind a loss that did not.
    result = {"w": torch.tensor([1.0, bad])}, 0.5
    with pytest.raises(ClientFailure, match="diverged"):
        client_update(replace(settings, defenses=(instead(lambda *_: result),)), 1, broadcast(sent))


def test_an_update_too_large_for_the_wire_is_an_error(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    result = {"w": torch.tensor([1.0, 70_000.0])}, 0.5  # float16 ends at 65504
    with pytest.raises(ClientFailure, match="too large for training"):
        client_update(
            replace(settings, defenses=(instead(lambda *_: result),)),
            1,
            broadcast(sent, wire_dtype="float16"),
        )


def test_an_update_too_small_for_the_wire_is_an_error(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    result = {"w": torch.tensor([1e-9, 0.0])}, 0.5  # float16 begins at 6e-8
    with pytest.raises(ClientFailure, match="too small for training"):
        client_update(
            replace(settings, defenses=(instead(lambda *_: result),)),
            1,
            broadcast(sent, wire_dtype="float16"),
        )


def test_a_defense_that_breaks_an_update_is_an_error(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    with pytest.raises(ClientFailure, match="not finite after the defense"):
        client_update(replace(settings, defenses=(Times(factor=math.inf),)), 1, broadcast(sent))


def test_the_broadcast_comes_back_as_it_was(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    kept = {name: w.clone() for name, w in sent.items()}
    client_update(settings, 1, broadcast(sent, algorithm="fedavg", learning_rate=0.5))
    assert all(torch.equal(sent[name], kept[name]) for name in kept)
