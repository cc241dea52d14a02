import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import Error, Message, MetricRecord, RecordDict

from fedsim.captures import CapturePath, find_captures, read_capture
from fedsim.wire import to_arrays
from server import Capture, Exchange, TapGrid
from tests.server.conftest import ToyGrid, towards, weights
from tests.server.tapped import NODES, START, message

SPEC = {"name": "gpt2", "task": "classification"}


def exchanges(nodes: Any, asked: Sequence[int], partition: dict[int, int]) -> Sequence[Exchange]:
    inner = ToyGrid(nodes)
    inner.partition = partition  # type: ignore[attr-defined]
    shown: list[Sequence[Exchange]] = []
    shared = message(asked[0]).content  # as FedAvg does: one content for all
    messages = [Message(shared, node, "train") for node in asked]
    list(TapGrid(inner, [shown.append]).send_and_receive(messages))
    return shown[0]


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_one_directory_an_exchange(tmp_path: Path) -> None:
    Capture(tmp_path, model=SPEC)(exchanges(NODES, (71, 5), {71: 2, 5: 0}))
    names = ("broadcast.safetensors", "observation.json", "update.safetensors")
    wanted = [f"round=4/client={client}/{name}" for client in (0, 2) for name in names]
    assert files(tmp_path) == wanted
    record = json.loads((tmp_path / "round=4/client=0/observation.json").read_text())
    expected = {"schema": 1, "round": 4, "client": 0, "kind": "delta", "num_examples": 3}
    assert {key: record[key] for key in expected} == expected  # node 5 has 3 examples
    assert record["model"] == SPEC


def test_captures_read_back_as_what_was_seen(tmp_path: Path) -> None:
    Capture(tmp_path)(exchanges(NODES, (71,), {71: 2}))
    (where,) = find_captures(tmp_path)
    assert where == CapturePath(4, 2, tmp_path / "round=4/client=2")
    got = read_capture(where)
    assert got.model == {}
    for name, start in START.items():
        assert torch.equal(got.broadcast.parameters[name], start)
        half = -0.5 * (start - weights(1)[name])  # what node 71 does, see NODES
        assert torch.equal(got.update.tensors[name], half)


def test_the_weights_of_a_round_are_stored_once(tmp_path: Path) -> None:
    Capture(tmp_path)(exchanges(NODES, (71, 5, 33), {71: 0, 5: 1, 33: 2}))
    stats = [
        (tmp_path / f"round=4/client={client}/broadcast.safetensors").stat() for client in range(3)
    ]
    assert len({stat.st_ino for stat in stats}) == 1
    assert [stat.st_nlink for stat in stats] == [3, 3, 3]


def test_weights_that_differ_are_not_linked(tmp_path: Path) -> None:
    inner = ToyGrid(NODES)
    shown: list[Sequence[Exchange]] = []
    other = RecordDict({"arrays": to_arrays(weights(7)), "config": message(5).content["config"]})
    messages = [message(71), message(5, content=other)]
    list(TapGrid(inner, [shown.append]).send_and_receive(messages))
    Capture(tmp_path)(shown[0])
    first, second = (
        read_capture(capture).broadcast.parameters for capture in find_captures(tmp_path)
    )
    assert torch.equal(first["w.bias"], START["w.bias"])
    assert torch.equal(second["w.bias"], weights(7)["w.bias"])


def test_unknown_clients_are_numbered_by_first_sight(tmp_path: Path) -> None:
    capture = Capture(tmp_path)
    capture(exchanges(NODES, (33, 71), {}))  # 33 is the first it sees, 71 the second
    first = {path: (tmp_path / path).read_bytes() for path in files(tmp_path)}
    capture(exchanges(NODES, (5, 33), {}))  # the same round again: 5 is the third, 33 stays
    captured = {
        (capture.client, read_capture(capture).update.num_examples)
        for capture in find_captures(tmp_path)
    }
    assert captured == {(0, 1), (1, 1), (2, 3)}  # only node 5 has 3 examples
    name = "round=4/client=1/update.safetensors"
    assert (tmp_path / name).read_bytes() == first[name]


def test_a_client_that_failed_leaves_no_capture(tmp_path: Path) -> None:
    nodes = {**NODES, 71: lambda _: Error(2, "boom"), 33: lambda _: None}
    Capture(tmp_path)(exchanges(nodes, (71, 5, 33), {71: 0, 5: 1, 33: 2}))
    assert [capture.client for capture in find_captures(tmp_path)] == [1]


def test_a_round_captured_again_replaces_the_first(tmp_path: Path) -> None:
    capture = Capture(tmp_path)
    capture(exchanges(NODES, (71, 5), {71: 0, 5: 1}))
    before = (tmp_path / "round=4/client=1/update.safetensors").read_bytes()
    again = {**NODES, 5: towards(weights(8), examples=11)}
    capture(exchanges(again, (71, 5), {71: 0, 5: 1}))
    assert (tmp_path / "round=4/client=1/update.safetensors").read_bytes() != before
    assert [read_capture(capture).update.num_examples for capture in find_captures(tmp_path)] == [
        1,
        11,
    ]
    assert (tmp_path / "round=4/client=1/broadcast.safetensors").stat().st_nlink == 2


def test_a_stock_clients_weights_are_captured_as_what_they_moved_by(tmp_path: Path) -> None:
    moved = {name: w + 0.25 for name, w in START.items()}
    content = RecordDict(
        {"arrays": to_arrays(moved), "metrics": MetricRecord({"num-examples": 6, "loss": 0.5})}
    )
    Capture(tmp_path)(exchanges({3: lambda _: content}, (3,), {}))
    (where,) = find_captures(tmp_path)
    update = read_capture(where).update
    assert (update.kind, update.num_examples, dict(update.metrics)) == ("delta", 6, {"loss": 0.5})
    for name, w in START.items():  # w is about 1: rounding of w + 0.25 in float32
        assert (update.tensors[name] - 0.25).abs().max() < 3e-7 * (1 + w.abs().max())
