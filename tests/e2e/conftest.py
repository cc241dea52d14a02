"""How the tests run fedsim: as a user does, by its command."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FEDSIM = Path(sys.executable).with_name("fedsim")
Fedsim = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fedsim(tmp_path: Path) -> Fedsim:
    """Runs the command in an empty directory."""

    def run(*words: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
        command = [str(FEDSIM), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip

    return run


def rows(path: Path) -> list[dict[str, Any]]:
    """The JSON values of a file's lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
