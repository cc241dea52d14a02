"""A stock Flower project, wrapped in one line, is captured and read."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.captures import place, write_capture
from fedsim.messages import Broadcast, Update
from tests.e2e.conftest import HANG, Fedsim

APP = Path(__file__).parents[2] / "examples" / "stock_flower" / "app.py"


def _texts() -> set[str]:
    """The oracle: what the example's clients train on, as its source says."""
    spec = importlib.util.spec_from_file_location("stock_flower_app", APP)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {text for _, text, _ in module.TEXTS}


@pytest.mark.slow
@pytest.mark.ray
def test_a_stock_project_is_read_from_its_weights(fedsim: Fedsim, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(APP), str(tmp_path)], check=True, capture_output=True, timeout=HANG
    )
    done = fedsim("attack", "captures", "--attack", "dager", "model.name=model", "--out", "o")
    assert done.returncode == 3, done.stderr  # nobody here knows the truth: no verdict
    assert "no truth" in done.stdout
    lines = (tmp_path / "o" / "reconstructions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    found = {text for row in rows if row["role"] == "attack" for text in row["texts"]}
    assert found == _texts()


def test_without_the_model_the_captures_say_what_is_missing(fedsim: Fedsim, tmp_path: Path) -> None:
    sent = Broadcast(round=1, parameters={})
    write_capture(
        place(tmp_path, 1, 0), 0, sent, Update(tensors={}, kind="delta", num_examples=1), {}
    )
    done = fedsim("attack", str(tmp_path), "--attack", "dager")
    assert done.returncode == 2
    assert "model.name" in done.stderr and "Traceback" not in done.stderr
