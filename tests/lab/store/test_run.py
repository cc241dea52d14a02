import hashlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.errors import BadInput, MalformedFile
from fedsim.files import write_lines, write_tensors
from fedsim.lab.store.run import RunDirectory, checksum
from server import Progress
from tests.lab.attempts import attempt
from tests.lab.conftest import experiment


def progress(round_: int, **strategy: torch.Tensor) -> Progress:
    generator = torch.Generator().manual_seed(round_)
    shapes = {"z.weight": (3, 2), "a.bias": (2,), "m": (1,)}  # not in alphabetical order
    parameters = {k: torch.randn(v, generator=generator) for k, v in shapes.items()}
    return Progress(round=round_, parameters=parameters, strategy=strategy)


def same(first: Progress, second: Progress) -> bool:
    return (
        first.round == second.round
        and all(torch.equal(first.parameters[k], v) for k, v in second.parameters.items())
        and all(torch.equal(first.strategy[k], v) for k, v in second.strategy.items())
        and set(first.parameters) == set(second.parameters)
        and set(first.strategy) == set(second.strategy)
    )


# The checksum


def test_the_checksum_is_sha256_over_names_and_bytes() -> None:
    weights = {"b": torch.tensor([[1.0, -2.0]]), "a": torch.tensor([0.5])}
    # By hand: names in order, then the little-endian float32 of 0.5, 1 and -2.
    text = b"a" + bytes.fromhex("0000003f") + b"b" + bytes.fromhex("0000803f000000c0")
    assert checksum(weights) == hashlib.sha256(text).hexdigest()
    assert checksum(dict(reversed(weights.items()))) == checksum(weights)


def test_the_checksum_sees_a_single_bit_and_a_name() -> None:
    weights = {"w": torch.tensor([1.0, 2.0])}
    next_up = {"w": torch.nextafter(weights["w"], torch.tensor([9.0, 2.0]))}
    assert (next_up["w"] - weights["w"]).abs().sum() > 0
    assert len({checksum(weights), checksum(next_up), checksum({"v": weights["w"]})}) == 3


def test_the_checksum_is_that_of_the_values_not_of_their_layout() -> None:
    matrix = torch.arange(6.0).view(2, 3)
    assert checksum({"w": matrix.T.contiguous().T}) == checksum({"w": matrix})


# Checkpoints


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.latest(99) is None
    saved = progress(3, **{"m_t/z.weight": torch.ones(3, 2), "momentum_vector/0": torch.ones(1)})
    run.save(saved)
    latest = run.latest(99)
    assert latest is not None and same(latest, saved)


def test_a_checkpoint_keeps_the_order_of_the_weights(tmp_path: Path) -> None:
    # FedAvgM's momentum is a list: it goes by place, not by name.
    run = RunDirectory(tmp_path)
    run.save(progress(1))
    latest = run.latest(99)
    assert latest is not None
    assert list(latest.parameters) == ["z.weight", "a.bias", "m"]


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for round_ in (8, 9, 10):  # as numbers: 10 comes after 9
        run.save(progress(round_))
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        "round=10.safetensors",
        "round=9.safetensors",
    ]


@pytest.mark.parametrize("torn", ["cut", "empty", "noise"])
def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path: Path, torn: str) -> None:
    run = RunDirectory(tmp_path)
    for round_ in (1, 2):
        run.save(progress(round_))
    newest = run.checkpoints / "round=2.safetensors"
    whole = newest.read_bytes()
    newest.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"x" * 99}[torn])
    latest = run.latest(99)
    assert latest is not None and same(latest, progress(1))
    newest.write_bytes(whole)
    latest = run.latest(99)
    assert latest is not None and same(latest, progress(2))


def test_no_checkpoint_that_can_be_read_is_none(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.save(progress(1))
    (run.checkpoints / "round=1.safetensors").write_bytes(b"{}")
    assert run.latest(99) is None


@pytest.mark.parametrize("name", ["round=x.safetensors", "round=.safetensors", "round=²", "a b"])
def test_what_has_no_checkpoints_name_is_none(tmp_path: Path, name: str) -> None:
    run = RunDirectory(tmp_path)
    run.save(progress(1))
    (run.checkpoints / name).write_bytes(b"")
    latest = run.latest(99)
    assert latest is not None and same(latest, progress(1))


@pytest.mark.parametrize("order", [None, "", "{}", '["z"]', "[1]", "[" * 3000])
def test_a_checkpoint_without_the_order_of_its_tensors_cannot_be_read(
    tmp_path: Path, order: str | None
) -> None:
    run = RunDirectory(tmp_path)
    metadata = None if order is None else {"order": order}
    write_tensors(run.checkpoints / "round=1.safetensors", {"w/a": torch.ones(1)}, metadata)
    assert run.latest(99) is None


def test_a_checkpoint_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.save(progress(1))
    os.mkfifo(run.checkpoints / "round=2.safetensors")
    latest = run.latest(99)
    assert latest is not None and latest.round == 1


# Rows


def round_(number: int, **measures: float) -> dict[str, Any]:
    return {"round": number, "utility": None, "measures": measures, "checksum": "", "seconds": 1.0}


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([round_(1)], "line 1: wanted round 0, got 1"),
        ([round_(0), round_(1), round_(1)], "line 3: wanted round 2, got 1"),  # resumed twice
        ([round_(0, accuracy=1.0), round_(1, mcc=1.0)], "wanted the same measures in every round"),
        ([{"round": 0}], "line 1: utility: wanted"),
        ([round_(0), 3], "line 2: all of it: wanted"),
        ([{**round_(0), "round": -1}], "line 1: round: wanted"),
        ([{**round_(0), "clients": ["a"]}], r"line 1: clients\.0: wanted"),
    ],
)
def test_rounds_that_are_none_are_malformed(tmp_path: Path, rows: list[Any], line: str) -> None:
    run = RunDirectory(tmp_path)
    write_lines(tmp_path / "rounds.jsonl", rows)
    with pytest.raises(MalformedFile, match=rf"rounds.jsonl.*{line}"):
        run.rounds()


def test_an_attack_on_the_same_update_counts_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for client, role in ((0, "attack"), (0, "positive"), (1, "attack")):
        run.note_attempt(attempt(client, [], role=role))
    assert len(run.attempts()) == 3
    run.note_attempt(attempt(1, [(1,)]))
    with pytest.raises(MalformedFile, match="line 4: dager in round 1 of client 1 is there twice"):
        run.attempts()


@pytest.mark.parametrize("row", [{"text": "a"}, {"round": None}, 3, {"round": 10**7}])
def test_rows_of_no_round_cannot_be_forgotten(tmp_path: Path, row: Any) -> None:
    run = RunDirectory(tmp_path)
    write_lines(tmp_path / "rounds.jsonl", [{"round": 0}, row])
    with pytest.raises(MalformedFile, match=r"rounds.jsonl, line 2: "):
        run.forget_after(0)


@pytest.mark.parametrize("line", ['{"tokens": 3}', "[1]", '{"tokens": [-1]}'])
def test_a_pool_that_is_none_is_malformed(tmp_path: Path, line: str) -> None:
    run = RunDirectory(tmp_path)
    run.vault.mkdir()
    (run.vault / "pool.jsonl").write_text(line + "\n")
    with pytest.raises(MalformedFile, match=r"pool.jsonl, line 1: "):
        run.pool()


def test_rounds_that_will_be_run_again_are_forgotten(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for name in ("rounds.jsonl", "reconstructions.jsonl"):
        for round_ in (0, 1, 2, 2, 3):
            run.append(name, {"round": round_, "text": "ä"})
    run.forget_after(1)
    for name in ("rounds.jsonl", "reconstructions.jsonl"):
        assert run.rows(name) == [{"round": 0, "text": "ä"}, {"round": 1, "text": "ä"}]
    run.forget_after(-1)
    assert run.rows("rounds.jsonl") == []


def test_nothing_to_forget_makes_no_file(tmp_path: Path) -> None:
    RunDirectory(tmp_path).forget_after(3)
    assert list(tmp_path.iterdir()) == []


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append("rounds.jsonl", {"round": 1})
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 2, "che')
    assert run.rows("rounds.jsonl") == [{"round": 1}]
    run.forget_after(1)
    run.append("rounds.jsonl", {"round": 2})  # on a line of its own
    assert run.rows("rounds.jsonl") == [{"round": 1}, {"round": 2}]


# The directory


def test_a_run_says_what_it_is(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "deep" / "run")
    config = experiment(training={"wire_dtype": "float16"})
    run.create(config)
    assert run.config() == config
    assert tomllib.loads((run.root / "config.toml").read_text())["federation"]["clients"] == 4
    manifest = json.loads((run.root / "manifest.json").read_text())
    # design.md, section 6: versions, seeds, machine, dtype, git
    assert {"versions", "seed", "machine", "dtype", "git"} <= set(manifest)
    assert manifest["seed"] == 1
    assert manifest["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert manifest["dtype"]["wire"] == "float16"


def test_the_default_place_says_name_time_and_hash() -> None:
    root = RunDirectory.default(experiment(name="mine")).root
    assert re.fullmatch(r"runs/mine-\d{8}T\d{6}Z-[0-9a-f]{8}", root.as_posix())
    other = RunDirectory.default(experiment(name="mine", seed=2)).root
    assert root.name[-8:] != other.name[-8:]  # the hash is over the whole config


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create(experiment())
    before = (run.root / "manifest.json").read_bytes()
    with pytest.raises(BadInput, match="already holds a run; add --resume"):
        run.create(experiment())
    assert (run.root / "manifest.json").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is not a directory"):
        RunDirectory(tmp_path / "file").create(experiment())


@pytest.mark.parametrize("content", [None, "seed = 'x'", "[broken"])
def test_what_holds_no_run_cannot_go_on(tmp_path: Path, content: Any) -> None:
    if content is not None:
        (tmp_path / "config.toml").write_text(content)
    wanted = "holds no run" if content is None else "."
    with pytest.raises(BadInput, match=wanted):
        RunDirectory(tmp_path).config()
