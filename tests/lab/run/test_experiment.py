import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fedsim.errors import BadInput, ClientFailure, FedsimError, MalformedFile
from fedsim.lab.config import Config
from fedsim.lab.run.prepare import prepare
from fedsim.lab.run.utility import utility
from fedsim.lab.store import layout
from fedsim.lab.store.run import RunDirectory, checksum
from fedsim.rng import stream
from fedsim.training import Examples
from tests.lab.conftest import experiment, preset
from tests.lab.runs import Kill, evidence, go, untimed

ATTACK = [{"name": "dager", "rounds": [2, 3]}]
FEDAVG = {
    "algorithm": "fedavg",
    "learning_rate": 0.05,
    "mini_batch_size": 2,
    "batch_size": 3,
    "dropout": True,
}


# A run that was interrupted, and one that was not


def killed(run: RunDirectory, config: Config, at: int, patch: pytest.MonkeyPatch) -> bool:
    """Run until the ``at``-th file is about to be finished; return whether it came to that."""
    original, count = os.fsync, 0

    def fsync(number: int) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise Kill
        original(number)

    with patch.context() as context:
        context.setattr("fedsim.files.os.fsync", fsync)
        try:
            go(run, config)
        except Kill:
            return True
    return False


STRATEGIES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedadam": {"eta": 0.01},
    "fedavgm": {"server_momentum": 0.9},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_run_interrupted_after_a_round_gives_the_same_bits(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = {"strategy": name, "strategy_options": STRATEGIES[name]}
    config = experiment(federation=federation, training=FEDAVG)
    whole, parts = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "parts")
    go(whole, config)

    class Interrupted(KeyboardInterrupt):
        pass

    original = RunDirectory.save

    def save(self: RunDirectory, progress: Any) -> None:
        original(self, progress)
        if progress.round in (1, 2):
            raise Interrupted

    with monkeypatch.context() as context:
        context.setattr(RunDirectory, "save", save)
        for _ in range(2):
            with pytest.raises(Interrupted):
                go(parts, config)
    go(parts, config)
    assert evidence(parts) == evidence(whole)


@pytest.mark.slow
def test_a_run_killed_anywhere_gives_the_same_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # About 27 files and lines: manifest, config, pool, a row and a checkpoint of the start; in each
    # round two vaults, two captures, a row and a checkpoint; three lines of attacks; the summary.
    config = experiment(
        federation={"clients": 2, "clients_per_round": 2, "rounds": 2},
        data={"evaluate": 4},
        attack=[{"name": "dager", "rounds": [2]}],
    )
    whole = RunDirectory(tmp_path / "whole")
    go(whole, config)
    expected = evidence(whole)
    at, step = 4, 4
    while True:
        run = RunDirectory(tmp_path / f"killed at {at}")
        if not killed(run, config, at, monkeypatch):
            break
        if (run.root / "config.toml").exists():
            go(run, config)
            assert evidence(run) == expected, at
        at += step
    assert at > 24  # it was killed in both rounds


@pytest.mark.slow
def test_a_finished_run_goes_on_to_its_summary(tmp_path: Path) -> None:
    config = experiment(federation={"rounds": 1}, attack=[{"name": "dager", "clients": [0]}])
    run = RunDirectory(tmp_path / "run")
    first = go(run, config)
    (run.root / "summary.json").unlink()
    assert untimed(go(run, config)) == untimed(first)


# What a run says


def cut(path: Path, lines: int) -> None:
    """Leave so many lines of a file, and half of the next, as a disk that lost the rest."""
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:lines]) + whole[lines][:20])


@pytest.fixture(scope="module")
def noised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """A run of three rounds, to be copied."""
    config = experiment(
        attack=[{"name": "dager", "rounds": [1, 3]}],
        defense=[{"name": "gaussian", "noise_multiplier": 1.0}],
    )
    root = tmp_path_factory.mktemp("noised") / "run"
    go(RunDirectory(root), config)
    return root, config


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 2, 3])
def test_rounds_that_a_disk_lost_are_run_again(
    tmp_path: Path, noised: tuple[Path, Config], lines: int
) -> None:
    """Else their epsilon and what was read of them would be in no figure."""
    root, config = noised
    run = RunDirectory(Path(shutil.copytree(root, tmp_path / "run")))
    whole = evidence(run)
    cut(run.root / layout.ROUNDS, lines)
    go(run, config)
    assert evidence(run) == whole


@pytest.mark.slow
def test_attempts_that_a_disk_lost_make_no_smaller_leak(tmp_path: Path) -> None:
    config = experiment(federation={"rounds": 1}, attack=[{"name": "dager"}])
    run = RunDirectory(tmp_path / "run")
    go(run, config)
    cut(run.root / layout.ATTEMPTS, 4)  # the last client's, of three with a control each
    with pytest.raises(MalformedFile, match=r"dager's attempt in round 1 on client \d is missing"):
        go(run, config)


def test_what_is_of_rounds_that_run_again_goes(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    go(run, experiment(federation={"rounds": 1}))
    kept = {path for path in run.root.rglob("*") if path.name != layout.SUMMARY}
    for folder in (run.captures, run.vault, run.root / "audit"):
        assert (folder / "round=1").is_dir()
        (folder / "round=2" / "client=0").mkdir(parents=True)
    run.go_on_after(1)
    assert {*run.root.rglob("*")} == kept


@pytest.mark.slow
def test_the_rounds_are_noted_one_by_one(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    summary = go(run, experiment(training=FEDAVG))
    rows = run.rows("rounds.jsonl")
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert summary["utility"] == {
        "metric": "accuracy",
        "before": rows[0]["utility"],
        "after": rows[3]["utility"],
        "per_round": [row["utility"] for row in rows[1:]],
        "others": {
            name: {
                "before": rows[0]["measures"][name],
                "after": rows[3]["measures"][name],
                "per_round": [row["measures"][name] for row in rows[1:]],
            }
            for name in ("f1", "mcc")
        },
    }
    assert all(len(row["clients"]) == 3 for row in rows[1:])
    latest = run.latest(99)
    assert latest is not None
    assert summary["checksum"] == rows[3]["checksum"] == checksum(latest.parameters)


@pytest.mark.slow
def test_without_held_out_data_there_is_no_utility(tmp_path: Path) -> None:
    config = experiment(data={"evaluate": 0}, federation={"rounds": 1})
    assert go(RunDirectory(tmp_path / "run"), config)["utility"] is None


@pytest.mark.slow
def test_attacks_see_the_rounds_and_clients_that_were_asked_for(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    config = experiment(
        federation={"clients_per_round": 4},
        attack=[{"name": "dager", "rounds": [2], "clients": [1, 3]}],
    )
    summary = go(run, config)
    assert [(entry["round"], entry["client"]) for entry in summary["attacks"]] == [(2, 1), (2, 3)]
    roles = [(row["role"], row["round"]) for row in run.rows("reconstructions.jsonl")]
    assert roles == [("attack", 2), ("positive", 2)] * 2


@pytest.mark.slow
def test_captures_can_be_switched_off(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    config = experiment(
        federation={"capture": False, "rounds": 1, "clients_per_round": 4},
        attack=[{"name": "dager", "clients": [0]}],
    )
    assert go(run, config)["attacks"]
    assert not run.captures.exists()


@pytest.mark.slow
def test_weights_that_diverge_on_the_server_fail_the_run(tmp_path: Path) -> None:
    # The gradient is finite, and so is the loss before the step; w - lr * g is not.
    config = experiment(federation={"rounds": 1}, training={"learning_rate": 1e39})
    with pytest.raises(FedsimError, match=r"diverged|finite"):
        go(RunDirectory(tmp_path / "run"), config)


@pytest.mark.slow
@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_a_failing_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_failure: str) -> None:
    import clients.holdings

    original: Callable[..., Any] = clients.holdings.round_batch

    def broken(settings: Any, client: int, round_: int, *more: Any) -> Any:
        if (client, round_) == (2, 2):
            raise RuntimeError("the disk\nis full")
        return original(settings, client, round_, *more)

    monkeypatch.setattr(clients.holdings, "round_batch", broken)
    config = experiment(federation={"on_failure": on_failure, "clients_per_round": 4})
    run = RunDirectory(tmp_path / "run")
    if on_failure == "stop":
        with pytest.raises(ClientFailure, match=r"round 2, client 2: .*RuntimeError on the client"):
            go(run, config)
        noted = (run.root / "audit" / "round=2" / "client=2.json").read_text()
        assert "is full" in noted  # and the server was not told
        monkeypatch.setattr(clients.holdings, "round_batch", original)
        assert go(run, config)["failures"] == []  # and it can go on
    else:
        summary = go(run, config)
        (failure,) = summary["failures"]
        assert (failure["round"], failure["client"]) == (2, 2)
        assert failure["error"].endswith("its audit/round=2/client=2.json says more")
        assert [row.get("clients") for row in run.rows("rounds.jsonl")][1:] == [
            [0, 1, 2, 3],
            [0, 1, 3],
            [0, 1, 2, 3],
        ]


# Utility


def held_out(task: str) -> Examples:
    texts = ["a b c d", "one longer text about nothing", "ab cd", "x y z", "more of the same"] * 8
    ids = preset(task=task).tokenizer(texts)["input_ids"]
    return Examples(
        sequences=tuple(tuple(tokens) for tokens in ids),
        labels=tuple(place % 2 for place in range(len(ids))),
    )


def test_accuracy_is_the_share_of_right_answers() -> None:
    adapter, examples = preset(), held_out("classification")
    weights = adapter.initial_parameters()
    right = 0
    module = adapter.load(weights)
    for tokens, label in zip(examples.sequences, examples.labels, strict=True):
        right += module(input_ids=torch.tensor([tokens])).logits.argmax().item() == label
    assert utility(adapter, weights, examples)["accuracy"] == right / 40


def test_perplexity_is_over_all_predicted_tokens() -> None:
    adapter, examples = preset(task="causal-lm"), held_out("causal-lm")
    weights = adapter.initial_parameters()
    module = adapter.load(weights)
    losses = []
    with torch.no_grad():
        for tokens in examples.sequences:
            logits = module(input_ids=torch.tensor([tokens])).logits[0].double()
            losses += [-F.log_softmax(logits[i], -1)[t] for i, t in enumerate(tokens[1:])]
    expected = torch.stack(losses).mean().exp().item()
    assert utility(adapter, weights, examples)["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_the_masks_of_masked_lm_are_the_same_each_time() -> None:
    adapter = preset("bert-tiny", "masked-lm")
    ids = adapter.tokenizer(["a b c d", "one longer text about nothing"] * 3)["input_ids"]
    examples = Examples(sequences=tuple(map(tuple, ids)), labels=(None,) * 6)
    weights = adapter.initial_parameters()
    batch = adapter.batch(examples.sequences, examples.labels, stream(0, "utility"))
    with torch.no_grad():
        logits = adapter.load(weights)(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits
    chosen = batch["labels"] >= 0
    expected = F.cross_entropy(logits[chosen], batch["labels"][chosen]).exp().item()
    assert utility(adapter, weights, examples)["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert utility(adapter, weights, examples) == utility(adapter, weights, examples)


# Checks before anything long starts


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"model": {"freeze": ["embeding"]}}, "model.freeze.*did you mean 'embeddings'"),
        ({"model": {"freeze": ["*"]}}, "nothing is left to train"),
        ({"model": {"lora_rank": 2, "lora_targets": ["xx"]}}, "model.lora_targets: .*'xx'"),
        ({"data": {"max_length": 257}}, "at most the model's 256 positions, got 257"),
        ({"data": {"evaluate": 504}}, "data.evaluate must be less than the 504"),
        ({"federation": {"clients": 500, "clients_per_round": 1}}, "federation.clients must be"),
        ({"attack": [{"name": "dager", "max_pairs": 0}]}, "max_pairs must be > 0, got 0"),
        ({"attack": [{"name": "dager", "max_pair": 1}]}, "did you mean 'max_pairs'"),
        ({"attack": [{"name": "dager", "families": ["x"]}]}, "unknown parameter 'families'"),
        ({"attack": [{"name": "dager", "knowledge": {"label": True}}]}, "'labels'"),
        ({"defense": [{"name": "none", "x": 1}]}, "unknown parameter 'x'"),
        (
            {"federation": {"strategy": "fedadam", "strategy_options": {"eta": "fast"}}},
            "federation.strategy_options",
        ),
    ],
)
def test_what_cannot_work_is_said_before_the_run(sections: dict[str, Any], line: str) -> None:
    with pytest.raises(BadInput, match=line) as caught:
        prepare(experiment(**sections))
    assert "\n" not in str(caught.value)


def test_data_without_labels_cannot_be_classified(tmp_path: Path) -> None:
    path = tmp_path / "plain.txt"
    path.write_text("".join(f"a line of text number {i}\n" for i in range(40)))
    with pytest.raises(BadInput, match="classification needs labels of at least 2 kinds"):
        prepare(experiment(data={"name": str(path)}))
    made = prepare(experiment(data={"name": str(path)}, model={"task": "causal-lm"}))
    assert len(made.held_out) == 16


def test_a_device_that_is_not_here_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="'cuda:1' is not here; allowed: auto, cpu"):
        prepare(experiment(device="cuda:1"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadInput, match=r"'cuda:1' is not here; allowed: auto, cpu, cuda:0$"):
        prepare(experiment(device="cuda:1"))
