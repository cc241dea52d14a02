"""The sweep by the command: on Ray, killed, and with input that cannot be used."""

import json
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.conftest import HANG, Fedsim, started

GRID = (
    "data.evaluate=8", "data.max_length=12", "federation.clients=2",
    "federation.clients_per_round=2", "federation.rounds=1", "training.batch_size=2",
    "seed=1,2", "attack.max_pairs=5,1000",
)  # fmt: skip


def _table(root: Path) -> pd.DataFrame:
    return pd.read_parquet(root / "table.parquet").drop(columns=["seconds", "cell_seconds"])


@pytest.mark.slow
@pytest.mark.ray
def test_killed_and_resumed_and_on_ray_the_table_is_the_same(
    fedsim: Fedsim, command: Fedsim, tmp_path: Path
) -> None:
    whole = fedsim("sweep", *GRID, "--json")
    assert whole.returncode == 3, whole.stderr  # five pairs are too few: nothing is found
    found = json.loads(whole.stdout)
    assert [cell["status"] for cell in found["cells"]] == ["done"] * 4
    assert (tmp_path / found["table"]).is_file()

    killed = tmp_path / "killed"
    with started(tmp_path, "sweep", *GRID, "--out", "killed") as child:
        while len(list(killed.glob("cells/*/cell.json"))) < 2:
            assert child.poll() is None
            time.sleep(0.005)
    assert child.returncode < 0  # it was killed, and had not ended
    done = {path: path.stat().st_mtime_ns for path in killed.glob("cells/*/cell.json")}
    # Jobs are Ray's: in a process of its own, to whose end it leaves sockets and processes.
    resumed = command("sweep", "--out", "killed", "--resume", "--jobs", "2")
    assert resumed.returncode == 3, resumed.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    pd.testing.assert_frame_equal(_table(killed), _table(tmp_path / found["directory"]))
    again = fedsim("sweep", *GRID)  # the same command: nothing is left to do
    assert again.returncode == 3 and "4 done before" in again.stderr

    one, other = sorted(killed.glob("cells/seed=1*"))
    compared = fedsim("compare", str(one), str(other), "--json")
    assert compared.returncode == 0, compared.stderr
    (against,) = json.loads(compared.stdout)["runs"]
    assert against["leakage"]["dager"]["paired"]


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on(tmp_path: Path) -> None:
    with started(tmp_path, "sweep", *GRID, "--out", "stopped") as child:
        while not list(tmp_path.glob("stopped/cells/*/cell.json")):
            assert child.poll() is None
            time.sleep(0.005)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=HANG)
    assert child.returncode == 130
    assert "go on with: fedsim sweep --out stopped --resume" in said
    status = {
        one["status"] for one in json.loads((tmp_path / "stopped/sweep.json").read_text())["cells"]
    }
    assert status <= {"done", "waiting"} and (tmp_path / "stopped/table.parquet").exists()
