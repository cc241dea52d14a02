import csv
import json
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from clients import ClientSettings, DataSettings, build_client_app
from clients.app import client_examples, client_update, encode, round_batch
from clients.training import LocalTraining
from defenses import DPSGD, Defense, TopK
from defenses.base import Here, Memory, Steps
from defenses.encoding import Encoding
from fedsim.errors import BadInput, ClientFailure, DefenseFailed, MalformedMessage
from fedsim.flower import set_identity
from fedsim.messages import Broadcast, Parameters
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.rng import stream
from fedsim.training import Examples, Training, TrainingSettings
from fedsim.vault.reader import VaultReader
from fedsim.wire import read_partition, read_update, to_arrays

WORDS = "amber basil cedar dune ember flint grove heath iris jade".split()
ROWS = [(f"{one} and {two} row {i}", i % 2) for i, one in enumerate(WORDS) for two in WORDS]
MODEL = ModelSpec(name="builtin:gpt2-tiny", weights="random")


@pytest.fixture(autouse=True)
def identity() -> None:
    set_identity()  # without it no Message can be made outside a running app


@pytest.fixture(scope="module")
def adapter() -> ModelAdapter:
    return load_adapter(MODEL)


@pytest.fixture(scope="module")
def sent(adapter: ModelAdapter) -> dict[str, Tensor]:
    return adapter.initial_parameters()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *ROWS])
    return path


@pytest.fixture
def settings(table: Path, tmp_path: Path) -> ClientSettings:
    return ClientSettings(
        model=MODEL,
        data=DataSettings(name=str(table), evaluate=4),
        max_length=16,
        clients=3,
        batch_size=5,
        seed=2,
        vault=tmp_path / "vault",
    )


def broadcast(sent: Parameters, round_: int = 1, **training: Any) -> Broadcast:
    config = TrainingSettings(**training).as_config()
    return Broadcast(round=round_, parameters=sent, config=config)


def vault(settings: ClientSettings, round_: int, client: int) -> list[dict[str, Any]]:
    path = settings.vault / f"round={round_}" / f"client={client}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def noted(settings: ClientSettings, round_: int, client: int) -> Examples:
    rows = vault(settings, round_, client)
    return Examples(
        sequences=tuple(tuple(row["tokens"]) for row in rows),
        labels=tuple(row["label"] for row in rows),
    )


# Encoding


def test_texts_become_the_tokenizers_ids(adapter: ModelAdapter) -> None:
    texts = ["The nurse called.", "Call me back, please."]
    examples = encode(adapter, texts, [1, 0], 64)
    # The presets' tokenizer is a lossless byte-level BPE without special tokens for GPT-2.
    assert [adapter.tokenizer.decode(list(ids)) for ids in examples.sequences] == texts
    assert examples.labels == (1, 0)


def test_long_texts_are_cut_off(adapter: ModelAdapter) -> None:
    whole = encode(adapter, ["one two three four five six seven"], [0], 64).sequences[0]
    assert len(whole) > 5
    assert encode(adapter, ["one two three four five six seven"], [0], 5).sequences == (whole[:5],)


@pytest.mark.parametrize(
    ("task", "kept"), [("causal-lm", (1, 3)), ("classification", (0, 1, 2, 3))]
)
def test_texts_without_a_loss_are_left_out(task: Any, kept: tuple[int, ...]) -> None:
    adapter = load_adapter(replace(MODEL, task=task))
    texts = ["a", "ab cd", "x", "x y"]  # one letter is one token: it predicts nothing
    examples = encode(adapter, texts, [5, 6, 7, 8], 64)
    assert [len(adapter.tokenizer(one)["input_ids"]) for one in ("a", "x")] == [1, 1]
    assert [adapter.tokenizer.decode(list(ids)) for ids in examples.sequences] == [
        texts[row] for row in kept
    ]
    assert examples.labels == tuple((5, 6, 7, 8)[row] for row in kept)


def test_a_client_whose_texts_are_all_too_short_is_bad_input(
    tmp_path: Path, settings: ClientSettings
) -> None:
    (tmp_path / "short.txt").write_text("a\nb\nc\nd\n")
    data = DataSettings(name=str(tmp_path / "short.txt"), evaluate=0)
    short = replace(settings, data=data, model=replace(MODEL, task="causal-lm"))
    with pytest.raises(BadInput, match="client 1 holds no text long enough to train on"):
        client_examples(short, 1)


# A round's batch


def test_clients_hold_different_texts_and_together_all(settings: ClientSettings) -> None:
    held = [set(client_examples(settings, client).sequences) for client in range(3)]
    assert sum(map(len, held)) == len(held[0] | held[1] | held[2]) == len(ROWS) - 4  # held out: 4


def test_a_batch_is_drawn_without_replacement_by_seed_client_and_round(
    settings: ClientSettings,
) -> None:
    batch = round_batch(settings, 1, 1)
    assert len(batch) == len(set(batch.sequences)) == 5
    assert set(batch.sequences) <= set(client_examples(settings, 1).sequences)
    assert round_batch(settings, 1, 1) == batch
    others = [
        round_batch(settings, 1, 2),
        round_batch(settings, 2, 1),
        round_batch(replace(settings, seed=3), 1, 1),
    ]
    assert all(other.sequences != batch.sequences for other in others)


def test_labels_stay_with_their_texts(settings: ClientSettings, adapter: ModelAdapter) -> None:
    truth = dict(ROWS)
    batch = round_batch(replace(settings, batch_size=0), 0, 1)
    for ids, label in zip(batch.sequences, batch.labels, strict=True):
        assert truth[adapter.tokenizer.decode(list(ids))] == label


@pytest.mark.parametrize("size", [0, 1000])
def test_a_batch_of_all(settings: ClientSettings, size: int) -> None:
    whole = client_examples(settings, 2)
    batch = round_batch(replace(settings, batch_size=size), 2, 1)
    assert len(batch) == 32  # (100 - 4) / 3
    assert sorted(batch.sequences) == sorted(whole.sequences)


# The update


@dataclass(frozen=True, kw_only=True)
class Spy(Defense):
    """Runs ``inside`` where training would run, or around it."""

    inside: Callable[[Training], Training]

    def wrap(self, training: Training) -> Training:
        return self.inside(training)


def instead(result: Callable[..., Any]) -> Spy:
    return Spy(inside=lambda training: result)


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


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_the_same_broadcast_gives_the_same_bits(
    settings: ClientSettings, sent: dict[str, Tensor], algorithm: str
) -> None:
    asked = broadcast(sent, algorithm=algorithm, dropout=True, mini_batch_size=2)
    one, again = (client_update(settings, 1, asked).tensors for _ in range(2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    later = client_update(settings, 1, replace(asked, round=2)).tensors
    assert any(not torch.equal(one[name], later[name]) for name in one)


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
    for name, tensor in update.tensors.items():
        assert tensor.dtype == getattr(torch, dtype)
        assert torch.equal(tensor, whole.tensors[name].to(tensor.dtype))


def test_the_vault_knows_before_training_starts(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    found: list[Examples] = []

    def boom(parameters: Parameters, examples: Examples, g: torch.Generator) -> Any:
        found.append(noted(settings, 3, 1))
        assert found[0] == examples
        raise RuntimeError("no memory left")

    with pytest.raises(RuntimeError, match="no memory left"):
        client_update(replace(settings, defenses=(instead(boom),)), 1, broadcast(sent, 3))
    assert found == [round_batch(settings, 1, 3)]
    assert noted(settings, 3, 1) == round_batch(settings, 1, 3)  # and it stays


def test_the_vault_knows_the_batch_before_a_defense_touches_it(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    def halved(training: Training) -> Training:
        return lambda p, examples, g: training(p, examples.take([0, 1]), g)

    client_update(replace(settings, defenses=(Spy(inside=halved),)), 1, broadcast(sent))
    assert noted(settings, 1, 1) == round_batch(settings, 1, 1)  # all five


@dataclass(frozen=True, kw_only=True)
class Times(Defense):
    """Multiplies what is sent, after adding noise of its own stream."""

    factor: float

    def protect(self, tensors: Parameters, generator: torch.Generator) -> Parameters:
        noise = torch.rand(1, generator=generator)
        return {name: (t + noise) * self.factor for name, t in tensors.items()}


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
    how = {"algorithm": "fedavg", "learning_rate": 1e30, "mini_batch_size": 2, "local_epochs": 2}
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


# Defenses with memory, lots and an audit


@dataclass(frozen=True, kw_only=True)
class Lots(Defense):
    """Two steps of its own choice; counts the rounds; says how it went."""

    here: Here | None = None

    def begin(self, here: Here) -> Defense:
        return replace(self, here=here)

    def draw(self, generator: torch.Generator) -> Steps:
        return ((7, 2), (2, 9, 4))

    def report(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        return {}

    def encoded(self, sent: Parameters, before: Encoding) -> Encoding:
        return before.rounded(8, 0)

    def keep(self) -> Memory:
        assert self.here is not None
        last = self.here.memory
        count = last.values.get("rounds", 0) + 1
        sums = last.tensors.get("sum", torch.zeros(2)) + count
        return Memory(values={"rounds": count, "was": self.here.round}, tensors={"sum": sums})


def kept(settings: ClientSettings, round_: int) -> Memory:
    return settings.memory.before(1, round_ + 1, 2)[1]


def test_the_vault_knows_what_a_defense_drew_and_nobody_else_how_much(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    held, seen = client_examples(settings, 1), []

    def watch(training: Training) -> Training:
        def run(p: Parameters, examples: Examples, g: torch.Generator) -> Any:
            seen.append(examples)
            return training(p, examples, g)

        return run

    drawing = replace(settings, defenses=(Lots(), Spy(inside=watch)))
    how = {"algorithm": "fedavg", "mini_batch_size": 2, "local_epochs": 2}
    update = client_update(drawing, 1, broadcast(sent, **how))
    assert noted(settings, 1, 1) == held.take([2, 4, 7, 9])  # each once
    assert seen[0].steps == ((2, 0), (0, 3, 1))  # the same examples, as rows of these four
    assert update.num_examples == 5  # as without: not 4
    assert dict(update.metrics) == {}


def test_memory_goes_from_a_clients_round_to_its_next_and_back_after_a_kill(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    counting = replace(settings, defenses=(Times(factor=1.0), Lots()))
    for round_ in (1, 3, 4):
        client_update(counting, 1, broadcast(sent, round_))
    assert kept(settings, 4).values == {"rounds": 3, "was": 4}
    assert kept(settings, 4).tensors["sum"].tolist() == [6.0, 6.0]  # 1 + 2 + 3
    client_update(counting, 1, broadcast(sent, 3))  # a run that was killed, and goes on from 3
    assert kept(settings, 3).values == kept(settings, 9).values == {"rounds": 2, "was": 3}
    assert kept(settings, 1).values == {"rounds": 1, "was": 1}
    client_update(counting, 2, broadcast(sent, 5))
    assert settings.memory.before(2, 6, 2)[1].values == {"rounds": 1, "was": 5}  # its own
    for round_ in (4, 5, 6):
        client_update(counting, 1, broadcast(sent, round_))
    assert len(list((settings.memory.root / "client=1").iterdir())) == 3  # older ones are gone


def test_a_memory_of_other_defenses_or_a_broken_one_is_refused(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    client_update(replace(settings, defenses=(Lots(),)), 1, broadcast(sent))
    with pytest.raises(MalformedMessage, match="is of 1 defenses, not of 2"):
        settings.memory.before(1, 2, 2)
    (path,) = (settings.memory.root / "client=1").iterdir()
    path.write_bytes(b"cut")
    with pytest.raises(MalformedMessage, match="is not what a client kept"):
        settings.memory.before(1, 2, 1)


def test_the_client_measures_what_each_defense_did(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    defended = replace(settings, defenses=(Times(factor=2.0), Lots()))
    update = client_update(defended, 1, broadcast(sent))
    row = VaultReader(settings.vault).measured(1, 1)
    assert row is not None
    first, second = row["defenses"]
    whole = torch.cat([t.double().flatten() for t in update.tensors.values()])
    assert first["norm_after"] == pytest.approx(whole.norm().item(), rel=1e-9)
    assert first["change"] == pytest.approx(first["norm_after"] / first["norm_before"], rel=0.9)
    assert second == {"norm_before": first["norm_after"], "norm_after": first["norm_after"],
                      "change": 0.0}  # fmt: skip
    assert row["bytes"] == whole.numel()  # four bytes each, and a quarter of them
    assert row["seconds"] > 0.0


def test_a_defense_that_sends_nothing_fails_and_the_lab_knows(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    silent = replace(settings, defenses=(Times(factor=0.0),))
    with pytest.raises(DefenseFailed, match=r"Times\(factor=0.0\) sends nothing"):
        client_update(silent, 1, broadcast(sent))
    row = VaultReader(settings.vault).measured(1, 1)
    assert row is not None and "sends nothing" in row["failed"]
    assert not (settings.memory.root).exists()


def test_the_broadcast_comes_back_as_it_was(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    kept = {name: w.clone() for name, w in sent.items()}
    client_update(settings, 1, broadcast(sent, algorithm="fedavg", learning_rate=0.5))
    assert all(torch.equal(sent[name], kept[name]) for name in kept)


# The Flower app


def context(client: int) -> Context:
    return Context(1, 50, {"partition-id": client, "num-partitions": 3}, RecordDict(), {})


def test_a_client_tells_its_partition(settings: ClientSettings) -> None:
    reply = build_client_app(settings)(Message(RecordDict(), 50, "query"), context(2))
    assert read_partition(reply.content) == 2


def test_a_client_answers_with_its_update(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    asked = broadcast(sent, 2)
    config = ConfigRecord({"server-round": 2, **asked.config})
    content = RecordDict({"arrays": to_arrays(sent), "config": config})
    reply = build_client_app(settings)(Message(content, 50, "train"), context(1))
    got = read_update(reply.content, asked)
    expected = client_update(settings, 1, asked)
    assert (got.kind, got.num_examples) == (expected.kind, expected.num_examples)
    assert all(torch.equal(got.tensors[k], t) for k, t in expected.tensors.items())
    words = [dict(record) for record in reply.content.config_records.values()]
    assert words == [{"kind": "gradient"}]  # no other words travel


def secretive(parameters: Parameters, examples: Examples, g: torch.Generator) -> Any:
    return {"w": torch.tensor([1.0, math.inf])}, 0.7231


def crashes(parameters: Parameters, examples: Examples, g: torch.Generator) -> Any:
    raise ValueError("the loss was 0.7231")


def fails(parameters: Parameters, examples: Examples, g: torch.Generator) -> Any:
    raise DefenseFailed("the update's norm is 0.7231")


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        (secretive, "ClientFailure: training diverged; lower training.learning_rate"),
        (crashes, "ClientFailure: ValueError on the client; its audit/round=2/client=1.json"),
        (fails, "ClientFailure: DefenseFailed on the client; its audit/round=2/client=1.json"),
    ],
)
def test_what_the_server_is_told_of_a_failure_has_no_figure_of_the_data(
    settings: ClientSettings, sent: dict[str, Tensor], inside: Any, told: str
) -> None:
    asked = broadcast(sent, 2)
    config = ConfigRecord({"server-round": 2, **asked.config})
    content = RecordDict({"arrays": to_arrays(sent), "config": config})
    private = DPSGD(noise_multiplier=1.0)
    broken = replace(settings, defenses=(private, instead(inside)))
    with pytest.raises(ClientFailure) as caught:
        build_client_app(broken)(Message(content, 50, "train"), context(1))
    text = "".join(traceback.format_exception(caught.value))  # what an engine sends
    assert told in text and "0.7231" not in text
    row = VaultReader(settings.vault).measured(2, 1)
    assert row is not None and "0.7231" in str(row)
    (spent, _) = settings.memory.before(1, 3, 2)
    assert spent.values["rounds"] == 1  # the failure is an answer: it costs epsilon


def test_a_failure_leaves_a_residual_as_it_was(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    private, lazy = DPSGD(noise_multiplier=1.0), TopK(residual=True)
    client_update(replace(settings, defenses=(private, lazy)), 1, broadcast(sent))
    (_, before) = settings.memory.before(1, 2, 2)

    @dataclass(frozen=True, kw_only=True)
    class Broken(TopK):
        def begin(self, here: Here) -> Defense:
            return replace(self, fraction=0.5)

        def protect(self, tensors: Parameters, generator: torch.Generator) -> Any:
            raise RuntimeError("no memory left")

    with pytest.raises(RuntimeError, match="no memory left"):
        client_update(replace(settings, defenses=(private, Broken())), 1, broadcast(sent, 2))
    (spent, after) = settings.memory.before(1, 3, 2)
    assert spent.values["rounds"] == 2
    assert before.tensors.keys() == after.tensors.keys() != set()
    assert all(torch.equal(after.tensors[name], t) for name, t in before.tensors.items())


def test_a_message_without_a_round_is_refused(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    content = RecordDict({"arrays": to_arrays(sent), "config": ConfigRecord()})
    with pytest.raises((BadInput, MalformedMessage), match="names no round"):
        build_client_app(settings)(Message(content, 50, "train"), context(1))


def test_settings_are_small_enough_to_travel_with_every_message(settings: ClientSettings) -> None:
    import cloudpickle

    # Ray pickles the app with each message; model and data are loaded where it arrives.
    assert len(cloudpickle.dumps(build_client_app(settings))) < 20_000
