"""The main job on real sentences, and on models of real size or with trained weights."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import FEDSIM, Fedsim

DATA = Path(__file__).parents[3] / "shared" / "data"
SST2 = ("data.name=sst2", f"data.path={DATA / 'datasets' / 'sst2'}")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not DATA.is_dir(), reason="the real data sets are not beside the checkout (shared/data)"
    ),
]


def test_three_rounds_of_fedavg_improve_the_accuracy(fedsim: Fedsim) -> None:
    done = fedsim(
        "run", "--json", *SST2, f"model.name={DATA / 'models' / 'all-MiniLM-L6-v2-fp16'}",
        "data.evaluate=256", "data.max_length=16", "attack=[]", "federation.clients=2",
        "federation.clients_per_round=2", "federation.rounds=3", "federation.capture=false",
        "training.algorithm=fedavg", "training.optimizer=adamw", "training.learning_rate=5e-4",
        "training.batch_size=96", "training.mini_batch_size=16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    utility = json.loads(done.stdout)["utility"]
    assert utility["metric"] == "accuracy" and len(utility["per_round"]) == 3
    # 256 sentences, nearly as many of each label: 3 standard errors of chance are 9.4 points.
    assert utility["after"] > max(utility["before"], 0.5) + 0.1


def test_trained_llama_next_token_last_tokens_included(fedsim: Fedsim) -> None:
    done = fedsim(
        "run", "--json", *SST2, "data.evaluate=64", "data.max_length=32", "model.task=causal-lm",
        f"model.name={DATA / 'models' / 'stories260K-hf'}", "federation.clients=50",
        "federation.clients_per_round=50", "federation.rounds=1", "training.batch_size=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    leakage = summary["leakage"]["dager"]
    assert sum(one["samples"] for one in summary["attacks"]) == 50
    assert leakage["exact_match_but_last"]["mean"] >= 0.95
    assert leakage["exact_match"]["mean"] >= 0.9  # the last MLP tells the last tokens
    assert any("last token" in note for note in summary["notes"])


def test_gpt2_at_its_real_size(tmp_path: Path) -> None:
    command = [
        str(FEDSIM), "run", "--json", *SST2, "model.name=builtin:gpt2", "data.evaluate=8",
        f"model.tokenizer={DATA / 'tokenizers' / 'gpt2'}", "federation.clients=2",
        "federation.clients_per_round=2", "federation.rounds=1", "training.batch_size=4",
        "--out", "run",
    ]  # fmt: skip
    with (tmp_path / "summary.json").open("w+") as output:
        child = subprocess.Popen(command, stdout=output, cwd=tmp_path)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        output.seek(0)
        summary = json.load(output)
    assert summary["leakage"]["dager"]["exact_match"]["mean"] >= 0.99
    assert [one["samples"] for one in summary["attacks"]] == [4, 4]
    assert usage.ru_maxrss * 1024 < 8e9  # bytes
