"""What the server saw comes back from disk bit for bit, or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fedsim.captures import (
    CapturePath,
    captured_clients,
    find_captures,
    place,
    read_capture,
    write_capture,
)
from fedsim.errors import BadInput, MalformedFile, MalformedMessage
from fedsim.messages import Broadcast, Update

ODD = (0.1, -0.0, 1e-45, 3.0000002, 65504.0)  # a subnormal and a neighbour of 3 among them


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    drawn = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    return {"h.0.w": drawn.to(dtype), "h.0.b": torch.tensor(ODD).to(dtype)}


def capture(root: Path, client: int = 0, round_: int = 1, **changes: Any) -> Path:
    """Write one capture and return its directory."""
    directory = place(root, round_, client)
    given: dict[str, Any] = {"model": {"name": "builtin:gpt2-tiny", "freeze": ["head"]}} | changes
    update = given.pop("update", None) or Update(
        tensors=tensors(), kind="delta", num_examples=4, metrics={"train_loss": 0.25}
    )
    config: Any = {
        "algorithm": "fedavg",
        "learning_rate": 1e-2,
        "dropout": False,
        "local_epochs": 3,
    }
    broadcast = Broadcast(round=round_, parameters=tensors(), config=config)
    write_capture(directory, client, broadcast, update, **given)
    return directory


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_capture_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    update = Update(tensors=tensors(dtype), kind="gradient", num_examples=5, metrics={"loss": 0.1})
    capture(tmp_path, client=12, round_=3, update=update)
    (where,) = find_captures(tmp_path)
    captured = read_capture(where)
    assert (captured.round, captured.client) == (3, 12)
    for name, tensor in tensors(dtype).items():
        assert bits(captured.update.tensors[name]) == bits(tensor)
    for name, tensor in tensors().items():
        assert bits(captured.broadcast.parameters[name]) == bits(tensor)
    assert (captured.update.kind, captured.update.num_examples) == ("gradient", 5)
    assert captured.update.metrics == {"loss": 0.1}
    assert captured.broadcast.round == 3
    assert captured.broadcast.config == {
        "algorithm": "fedavg",
        "learning_rate": 1e-2,
        "dropout": False,
        "local_epochs": 3,
    }
    assert captured.model == {"name": "builtin:gpt2-tiny", "freeze": ["head"]}


def test_a_round_of_many_clients_stores_its_weights_once(tmp_path: Path) -> None:
    first = capture(tmp_path, client=0) / "broadcast.safetensors"
    second = capture(tmp_path, client=1, same_broadcast=first) / "broadcast.safetensors"
    assert os.path.samefile(first, second)
    assert os.stat(first).st_nlink == 2
    first.unlink()  # the other stays readable
    captured = read_capture(find_captures(tmp_path)[1])
    assert bits(captured.broadcast.parameters["h.0.w"]) == bits(tensors()["h.0.w"])


def test_writing_a_capture_again_leaves_a_linked_broadcast_of_others_alone(tmp_path: Path) -> None:
    first = capture(tmp_path, client=0) / "broadcast.safetensors"
    directory = capture(tmp_path, client=1, same_broadcast=first)
    other = Broadcast(round=1, parameters={"h.0.w": torch.zeros(2)})
    update = Update(tensors={"h.0.w": torch.ones(2)}, kind="delta", num_examples=1)
    write_capture(directory, 1, other, update, {})
    kept, new = map(read_capture, find_captures(tmp_path))
    assert bits(kept.broadcast.parameters["h.0.w"]) == bits(tensors()["h.0.w"])
    assert torch.equal(new.broadcast.parameters["h.0.w"], torch.zeros(2))


def test_where_links_are_refused_the_weights_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    first = capture(tmp_path, client=0) / "broadcast.safetensors"
    second = capture(tmp_path, client=1, same_broadcast=first) / "broadcast.safetensors"
    assert not os.path.samefile(first, second) and first.read_bytes() == second.read_bytes()


def test_captures_are_found_in_order_of_round_and_client(tmp_path: Path) -> None:
    for round_, client in ((10, 0), (2, 11), (2, 3), (1, 5)):
        capture(tmp_path / "captures", client=client, round_=round_)
    expected = [(1, 5), (2, 3), (2, 11), (10, 0)]  # as numbers, not as text
    for root in (tmp_path, tmp_path / "captures"):
        assert [(path.round, path.client) for path in find_captures(root)] == expected
    folder = tmp_path / "captures" / "round=2" / "client=3"
    assert find_captures(folder) == [CapturePath(2, 3, folder)]


def test_a_capture_that_was_never_finished_is_not_found(tmp_path: Path) -> None:
    capture(tmp_path, client=0)
    (capture(tmp_path, client=1) / "observation.json").unlink()
    assert [path.client for path in find_captures(tmp_path)] == [0]


def test_a_capture_cut_short_while_it_is_written_again_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture(tmp_path, client=0)

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedsim.evidence.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        capture(tmp_path, client=0)
    with pytest.raises(BadInput, match="holds no capture"):
        find_captures(tmp_path)


def test_no_captures_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"captures: .*nowhere' is not a directory"):
        find_captures(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"holds no capture \(wanted round=R/client=C/"):
        find_captures(tmp_path)
    (tmp_path / "observation.json").write_text("{}")  # not in a round's and client's place
    with pytest.raises(BadInput, match="holds no capture"):
        find_captures(tmp_path)


@pytest.mark.parametrize("name", ["update.safetensors", "broadcast.safetensors"])
@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_torn_tensors_are_malformed(tmp_path: Path, name: str, kept: int) -> None:
    path = capture(tmp_path) / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(MalformedMessage, match=rf"{name} cannot be read"):
        read_capture(find_captures(tmp_path)[0])


@pytest.mark.parametrize("name", ["update.safetensors", "broadcast.safetensors"])
def test_missing_tensors_are_malformed(tmp_path: Path, name: str) -> None:
    (capture(tmp_path) / name).unlink()
    with pytest.raises(MalformedMessage, match=rf"{name} cannot be read"):
        read_capture(find_captures(tmp_path)[0])


@pytest.mark.parametrize("name", ["update.safetensors", "broadcast.safetensors"])
def test_floats_that_torch_cannot_add_are_malformed(tmp_path: Path, name: str) -> None:
    """Safetensors has them and torch loads them, but not even their greatest can be asked for."""
    save_file({"w": torch.ones(2, 2).to(torch.float8_e4m3fn)}, capture(tmp_path) / name)
    with pytest.raises(
        MalformedFile, match=r"wanted floats of 16, 32 or 64 bits, got torch\.float8"
    ):
        read_capture(find_captures(tmp_path)[0])


def rewrite(path: Path, **changes: Any) -> None:
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in record.items() if v != "gone"}))


@pytest.mark.parametrize("schema", [0, 2, None, "1", "gone"])
def test_another_schema_is_malformed(tmp_path: Path, schema: Any) -> None:
    rewrite(capture(tmp_path) / "observation.json", schema=schema)
    with pytest.raises(MalformedMessage, match=r"observation.json: wanted schema 1"):
        read_capture(find_captures(tmp_path)[0])


@pytest.mark.parametrize("text", ["[1]", "7", "null"])
def test_a_record_that_is_no_object_is_malformed(tmp_path: Path, text: str) -> None:
    (capture(tmp_path) / "observation.json").write_text(text)
    with pytest.raises(MalformedMessage, match=r"observation.json: wanted schema 1"):
        read_capture(find_captures(tmp_path)[0])


def test_a_torn_record_is_malformed(tmp_path: Path) -> None:
    path = capture(tmp_path) / "observation.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(MalformedMessage, match=r"observation.json is not valid JSON"):
        read_capture(find_captures(tmp_path)[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "gone"),
        ("kind", "weights"),
        ("num_examples", "gone"),
        ("num_examples", "many"),
        ("num_examples", None),
        ("num_examples", -1),
        ("round", None),
        ("model", None),
        ("config", "gone"),
        ("config", None),
        ("config", "The patient is Ada."),
        ("metrics", {"note": "The patient is Ada."}),
        ("metrics", "The patient is Ada."),
        ("metrics", None),
        ("metrics", [1.0]),
    ],
)
def test_a_record_that_does_not_say_what_it_must_is_malformed(
    tmp_path: Path, key: str, value: Any
) -> None:
    rewrite(capture(tmp_path) / "observation.json", **{key: value})
    with pytest.raises(MalformedMessage, match=r"observation\.json"):
        read_capture(find_captures(tmp_path)[0])


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("round", 2, "wanted round 1 as its directory says, got 2"),
        ("client", 3, "wanted client 0 as its directory says, got 3"),
        ("cohort", [1, 0], r"cohort must be different clients, 0 the first, got \[1, 0\]"),
        ("cohort", [0, 0], "cohort must be different clients"),
    ],
)
def test_a_capture_of_another_place_is_malformed(
    tmp_path: Path, key: str, value: Any, line: str
) -> None:
    rewrite(capture(tmp_path) / "observation.json", **{key: value})
    (where,) = find_captures(tmp_path)
    for read in (read_capture, captured_clients):
        with pytest.raises(MalformedFile, match=line):  # its truth would be another's
            read(where)


def test_a_capture_that_was_moved_is_malformed(tmp_path: Path) -> None:
    capture(tmp_path).parent.rename(tmp_path / "round=2")
    with pytest.raises(MalformedFile, match="wanted round 2 as its directory says, got 1"):
        read_capture(find_captures(tmp_path)[0])


def test_a_sum_says_whose_it_is(tmp_path: Path) -> None:
    capture(tmp_path, cohort=[0, 2, 1])
    (where,) = find_captures(tmp_path)
    assert read_capture(where).clients == captured_clients(where) == (0, 2, 1)


@pytest.mark.parametrize(
    "name",
    ["round=01", "round=1_0", "round=٣", "round=-1", "around=1", "round=" + "9" * 19, "round=1\n"],
)
def test_a_round_is_written_in_one_way(tmp_path: Path, name: str) -> None:
    capture(tmp_path).parent.rename(tmp_path / name)
    with pytest.raises(BadInput, match="holds no capture"):
        find_captures(tmp_path)


@pytest.mark.parametrize(("count", "fits"), [(2 * 10**7, True), (2 * 10**7 + 1, False)])
def test_a_sum_counts_the_examples_of_all_its_clients(
    tmp_path: Path, count: int, fits: bool
) -> None:
    update = Update(tensors=tensors(), kind="delta", num_examples=count)
    broadcast = Broadcast(round=1, parameters=tensors())
    write_capture(place(tmp_path, 1, 0), 0, broadcast, update, {}, cohort=(0, 1))
    (where,) = find_captures(tmp_path)
    if fits:
        assert read_capture(where).update.num_examples == count
    else:
        with pytest.raises(MalformedFile, match="num_examples: wanted less than"):
            read_capture(where)


def test_a_client_is_written_in_one_way(tmp_path: Path) -> None:
    mine = capture(tmp_path)
    shutil.copytree(mine, mine.with_name(f"{mine.name}\n"))
    assert [found.directory for found in find_captures(tmp_path)] == [mine.resolve()]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_examples", 10**9), ("num_examples", 1.5), ("num_examples", True), ("round", 10**9),
        ("client", -1), ("client", "0"), ("config", {"local_epochs": 10**9}),
        ("config", {"local_epochs": 0}), ("config", {"mini_batch_size": -3}),
        ("config", {"local_epochs": "many"}), ("config", {"a": []}), ("metrics", {"loss": "1.0"}),
        ("model", []), ("cohort", "01"), ("cohort", [0, -1]),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_are_malformed(tmp_path: Path, key: str, value: Any) -> None:
    rewrite(capture(tmp_path) / "observation.json", **{key: value})
    with pytest.raises(MalformedFile, match=rf"observation\.json: .*{key}.*wanted|wanted {key}"):
        read_capture(find_captures(tmp_path)[0])


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    update = Update(
        tensors=tensors(), kind="delta", num_examples=1, metrics={"a": float("nan"), "b": 1.0}
    )
    capture(tmp_path, update=update)
    assert read_capture(find_captures(tmp_path)[0]).update.metrics == {"b": 1.0}


@pytest.mark.parametrize("name", ["update.safetensors", "observation.json"])
def test_a_capture_of_pipes_and_devices_does_not_hang(tmp_path: Path, name: str) -> None:
    path = capture(tmp_path) / name
    path.unlink()
    os.mkfifo(path)
    where = CapturePath(1, 0, path.parent)
    with pytest.raises(MalformedFile, match=rf"{name} cannot be read: it is no regular file"):
        read_capture(where)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(MalformedFile, match=rf"{name} cannot be read: it is no regular file"):
        read_capture(where)
