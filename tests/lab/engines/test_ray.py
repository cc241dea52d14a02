"""Ray as a run starts it: who can reach it, and what one client's death costs."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.lab.engines import probe

# 127.0.0.1, ::ffff:127.0.0.1 and ::1, as /proc/net/tcp and tcp6 write them
LOOPBACK = {
    "0100007F",
    "0000000000000000FFFF00000100007F",
    "00000000000000000000000001000000",
}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="looks at sockets in /proc")
def test_ray_is_shut_in_and_a_death_is_one_clients_own() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", probe.__name__],
        cwd=root, env=os.environ | {probe.MARK: uuid.uuid4().hex, "PYTHONPATH": str(root)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # what Ray says of a death is not in it

    assert len(found["listening"]) >= 3  # the head, its raylet, a worker
    assert {place.rpartition(":")[0] for place in found["listening"]} <= LOOPBACK
    code, _, said = found["stranger"].partition(" ")
    assert code != "0" and "token" in said.lower(), said

    first, second = ({int(k): v for k, v in round_.items()} for round_ in found["rounds"])
    assert sorted(first) == sorted(second) == list(range(probe.CLIENTS))
    assert [client for client, error in first.items() if error] == [probe.DIES]
    assert not any(second.values())
