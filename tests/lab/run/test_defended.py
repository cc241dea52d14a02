"""Defended runs from end to end: what the server sees, what the run says, what a kill changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedsim.errors import BadInput
from fedsim.lab.display import Silent
from fedsim.lab.report import write_report
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import Sample
from tests.lab.conftest import experiment

SMALL = {"freeze": ["embeddings", "layers.2", "layers.3"]}
QFEDAVG = {"strategy": "qfedavg", "strategy_options": {"client_learning_rate": 0.01}}
FEDAVG = {"algorithm": "fedavg", "learning_rate": 0.05, "mini_batch_size": 2}


def go(root: Path, **sections: Any) -> dict[str, Any]:
    config = experiment(**sections)
    run = RunDirectory(root)
    if not (root / "config.toml").exists():
        run.create(config)
    return run_experiment(prepare(config), run, Silent(), quick=False)[0].as_dict()


def samples(root: Path) -> list[Sample]:
    run = RunDirectory(root)
    return run.samples(run.summary())


@pytest.mark.slow
def test_under_secagg_dager_reads_the_sum_and_is_scored_against_all_clients(tmp_path: Path) -> None:
    summary = go(tmp_path / "run", defense="secagg", attack=["dager"], federation={"rounds": 1})
    (entry,) = summary["attacks"]
    assert (entry["client"], len(entry["clients"]), entry["samples"]) == (entry["clients"][0], 3, 6)
    assert entry["metrics"]["exact_match"] == 1.0 and entry["verdict"] == "leak"
    assert entry["knowledge"] == {}
    (where,) = (tmp_path / "run" / "captures").glob("*/*")  # one capture, not three
    plain = go(tmp_path / "plain", attack=["dager"], federation={"rounds": 1})
    updates = [load_file(p) for p in (tmp_path / "plain").glob("captures/*/*/update.safetensors")]
    mean = torch.stack([update["score.weight"].double() for update in updates]).mean(0)
    received = load_file(where / "update.safetensors")["score.weight"]
    torch.testing.assert_close(received.double(), mean, rtol=1e-5, atol=1e-8)
    assert summary["wire"]["updates"] == plain["wire"]["updates"] == 3
    assert summary["guarantee"] is None
    assert [sample.clients for sample in samples(tmp_path / "run")] == [entry["clients"]] * 6
    said = f"sum of {', '.join(map(str, entry['clients']))}"
    html = write_report(tmp_path / "run", redact=False).read_text(encoding="utf-8")
    assert f"dager, round 1, client {said}" in html  # beside the texts
    assert f"the update most read is that of client {said}" in html  # the plot
    assert said in (tmp_path / "run/report/updates.csv").read_text(encoding="utf-8")
    alone = samples(tmp_path / "plain")
    assert alone and all(sample.clients == [sample.client] for sample in alone)


@pytest.mark.slow
def test_the_sum_trains_as_the_mean_does(tmp_path: Path) -> None:
    def last(name: str, **sections: Any) -> dict[str, torch.Tensor]:
        go(tmp_path / name, **sections)
        latest = RunDirectory(tmp_path / name).latest(99)
        assert latest is not None
        return dict(latest.parameters)

    how: dict[str, Any] = {"training": FEDAVG, "model": SMALL, "federation": {"rounds": 2}}
    plain = last("plain", **how)
    summed = last("sum", **how, defense="secagg")
    for name, tensor in plain.items():
        torch.testing.assert_close(summed[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_residual_goes_on_after_a_kill_bit_by_bit(tmp_path: Path) -> None:
    how: dict[str, Any] = {
        "training": FEDAVG,
        "model": SMALL,
        "federation": {"rounds": 2, "clients_per_round": 2, "clients": 2},
        "defense": [{"name": "topk", "fraction": 0.05, "residual": True}, {"name": "quantize"}],
    }
    whole = go(tmp_path / "whole", **how)
    go(tmp_path / "cut", **how)
    run = RunDirectory(tmp_path / "cut")  # what a kill leaves after round 1 of 2
    (run.checkpoints / "round=2.safetensors").unlink()
    (run.root / "summary.json").unlink()
    again = go(tmp_path / "cut", **how)
    assert again["checksum"] == whole["checksum"]
    forgetful = dict(how, defense=[{"name": "topk", "fraction": 0.05}, {"name": "quantize"}])
    assert go(tmp_path / "other", **forgetful)["checksum"] != whole["checksum"]


@pytest.mark.slow
def test_composed_defenses_are_measured_in_order(tmp_path: Path) -> None:
    summary = go(
        tmp_path / "run",
        federation={"rounds": 1},
        defense=[{"name": "topk", "fraction": 0.1}, {"name": "quantize", "dtype": "int8"}],
    )
    wire = summary["wire"]
    assert [row["defense"] for row in wire["defenses"]] == ["topk", "quantize"]
    assert wire["defenses"][0]["density"]["mean"] == pytest.approx(0.1, rel=1e-3)
    entries = sum(t.numel() for t in load_file(
        next((tmp_path / "run").glob("captures/*/*/update.safetensors"))).values())  # fmt: skip
    # 8 bits a value that is kept and 1 bit for every place; a scale for each tensor.
    assert wire["bits_per_entry"] == pytest.approx(0.1 * 8 + 1, abs=0.01)
    assert wire["bytes_up"] == pytest.approx(entries * (0.1 * 8 + 1) / 8, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"defense": [{"name": "topk", "fraction": 0}]}, r"defense topk: fraction must be in"),
        ({"defense": [{"name": "quantize", "dtype": "int3"}]}, "int4"),
        ({"defense": [{"name": "freeze", "groups": []}]}, "groups must name what to freeze"),
        ({"defense": [{"name": "freeze", "groups": ["embedings"]}]}, "did you mean 'embeddings'"),
        ({"defense": [{"name": "lora", "rank": 100_000}]}, "rank, must be at most 192, the inputs"),
        ({"defense": [{"name": "ffa-lora", "rank": 193}]}, "narrowest target, got 193"),
        ({"model": {"name": "builtin:bert-tiny", "lora_rank": 10_000}}, "got 10000"),
        ({"defense": [{"name": "dp-sgd", "noise_multiplier": True}]}, "valid number, got True"),
        ({"defense": [{"name": "gaussian", "noise_multiplier": "1"}]}, "valid number, got '1'"),
        ({"defense": [{"name": "lora", "rank": 0}]}, "defense lora: rank must be > 0, got 0"),
        ({"defense": [{"name": "lora", "targets": ["nothing"]}]}, "unknown module 'nothing'"),
        ({"defense": "lora", "model": {"lora_rank": 4}}, "adapters of rank 4 already"),
        ({"defense": [{"name": "dropout", "rate": 1.0}]}, r"rate must be in \(0, 1\), got 1.0"),
        ({"defense": "secagg", "federation": {"clients_per_round": 2}}, "at least 3, got 2"),
        ({"defense": "secagg", "federation": {"strategy": "krum"}}, "there is only a sum"),
        ({"defense": "dp-sgd", "federation": QFEDAVG}, "by their training loss, which is not sent"),
        ({"defense": "gaussian", "federation": QFEDAVG}, "by their training loss"),
        ({"defense": "top-k"}, "did you mean 'topk'"),
    ],
)
def test_bad_settings_are_said_before_anything_starts(sections: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        prepare(experiment(**sections))
