import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request

import pytest
from flwr.supercore import telemetry

from fedsim.flower import heed_telemetry_switch
from fedsim.lab.environment import defaults, set_environment

OURS = sorted(defaults())
RUN = ["run", "--quick", "--json", "--out", "run", "federation.rounds=1", "data.evaluate=4"]


def python(code: str, **environment: str) -> Any:
    """What ``code`` prints last, as JSON, in a process that has none of our variables."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env={**kept, "OMP_NUM_THREADS": "1", **environment}, capture_output=True,
        text=True, timeout=1200, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_importing_us_sets_nothing() -> None:
    changed = python(
        "import os\n"
        "before = dict(os.environ)\n"
        "import flwr.app\n"
        "theirs = {name for name in os.environ if os.environ[name] != before.get(name)}\n"
        "import attacks, clients, defenses, fedsim, fedsim.lab, fedsim.lab.cli, server\n"
        "import fedsim.lab.canaries.audit, fedsim.lab.compare, fedsim.lab.gate\n"
        "import fedsim.lab.report, fedsim.lab.run.experiment, fedsim.lab.run.replay\n"
        "import fedsim.lab.sweep.runner, fedsim.lab.terminal.sweep, json\n"
        "now = {name for name in os.environ if os.environ[name] != before.get(name)}\n"
        "print(json.dumps(sorted(now - theirs)))"
    )
    assert changed == []


@pytest.mark.slow
def test_a_run_by_the_command_is_silent_towards_the_world_and_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    heard = python(
        "import contextlib, io, json, os\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "from fedsim.lab.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    code = main({RUN!r})\n"
        "from sys import modules\n"  # what the run imported, and nothing more
        "flower = modules['flwr.supercore.telemetry'].FLWR_TELEMETRY_ENABLED\n"
        "hub = modules['huggingface_hub.constants'].HF_HUB_DISABLE_TELEMETRY\n"
        "print(json.dumps([code, flower, hub, os.environ['OMP_WAIT_POLICY']]))",
        HOME=str(home),
    )
    assert heard == [3, "0", True, "PASSIVE"]  # 3: no verdict without controls
    assert (tmp_path / "run" / "summary.json").is_file()
    assert list(home.rglob("*")) == []


def test_what_is_set_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", "/mine")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    set_environment()
    assert os.environ["FLWR_HOME"] == "/mine"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_flower_heeds_a_switch_that_is_set_after_its_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = []

    def send(request: Request, timeout: float) -> None:
        sent.append(request.full_url)
        raise URLError("this is a test")

    monkeypatch.setattr("urllib.request.urlopen", send)
    monkeypatch.setattr(telemetry, "FLWR_TELEMETRY_ENABLED", "1")
    telemetry.create_event(telemetry.EventType.PING, None)
    assert len(sent) == 1  # else the next one says nothing
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    heed_telemetry_switch()
    telemetry.create_event(telemetry.EventType.PING, None)
    assert len(sent) == 1
