"""How the tests run fedsim: as a user does, by its command."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedsim.lab.cli import main

FEDSIM = Path(sys.executable).with_name("fedsim")
HANG = 1200  # seconds after which a process is held to hang, on whatever machine; no measure
Fedsim = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fedsim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Fedsim:
    """Runs the command in an empty directory, within this process: an import costs seconds."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        capsys.readouterr()
        code = main(words)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    return run


@pytest.fixture
def command(tmp_path: Path) -> Fedsim:
    """Runs the command in an empty directory, in a process of its own."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(FEDSIM), *words], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=HANG,
        )  # fmt: skip

    return run


@contextlib.contextmanager
def started(folder: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Have the command run in a process of its own; end it at the block's end, if it has not."""
    child = subprocess.Popen(
        [str(FEDSIM), *words],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    guard = threading.Timer(HANG, child.kill)
    guard.start()
    try:
        yield child
    finally:
        guard.cancel()
        child.kill()
        child.communicate()


def rows(path: Path) -> list[dict[str, Any]]:
    """The JSON values of a file's lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
