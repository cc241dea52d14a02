"""A run that is killed goes on, and ends as if it had not been."""

import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Fedsim, rows, started

SETTINGS = (
    "federation.rounds=3", "federation.strategy=fedadam", "federation.clients=2",
    "federation.clients_per_round=2", "training.algorithm=fedavg", "training.batch_size=4",
    "training.mini_batch_size=2", "training.dropout=true", "data.max_length=16",
)  # fmt: skip


def _evidence(run: Path) -> list[object]:
    """All that a run leaves behind but times."""
    found: list[object] = [(row["round"], row["checksum"]) for row in rows(run / "rounds.jsonl")]
    for row in rows(run / "reconstructions.jsonl"):
        found.append([row["round"], row["client"], row["role"], row["sequences"]])
    return found


@pytest.mark.slow
def test_kill_in_round_two_then_resume(fedsim: Fedsim, tmp_path: Path) -> None:
    whole = fedsim("run", *SETTINGS, "--out", "whole")
    assert whole.returncode in (0, 3), whole.stderr
    killed = tmp_path / "killed"
    with started(tmp_path, "run", *SETTINGS, "--out", "killed") as child:
        # In round 2, clients have answered, and the attacks on their updates are to come.
        while not list(killed.glob("captures/round=2/client=*/observation.json")):
            assert child.poll() is None
            time.sleep(0.005)
    assert child.returncode < 0  # it was killed, and had not ended
    assert max(row["round"] for row in rows(killed / "rounds.jsonl")) < 3
    resumed = fedsim("run", "--out", "killed", "--resume")
    assert resumed.returncode == whole.returncode, resumed.stderr
    assert _evidence(killed) == _evidence(tmp_path / "whole")


def test_resume_needs_a_run_and_nothing_else(fedsim: Fedsim) -> None:
    for words in (
        ("--resume",),
        ("--resume", "--out", "no"),
        ("seed=2", "--resume", "--out", "no"),
    ):
        done = fedsim("run", *words)
        assert done.returncode == 2 and "--resume" in done.stderr
        assert "Traceback" not in done.stderr
