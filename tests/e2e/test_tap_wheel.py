"""The tap installs where there is no torch: its own distribution, from the same modules."""

import ast
import os
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from fedsim import __version__

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).with_name("numpy_project.py")
NAMES = ("__init__", "errors", "evidence", "files", "limits", "printing")
BLOCK = """
import sys
for name in ("torch", "transformers", "pydantic", "pandas", "peft"):
    sys.modules[name] = None  # an import of it raises
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds what the wheel of fedsim-tap does, and forbids torch."""
    root = tmp_path_factory.mktemp("tap")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(root)]
    subprocess.run(build, cwd=ROOT / "packaging" / "tap", check=True, capture_output=True)
    (wheel,) = root.glob("*.whl")
    assert wheel.name.split("-")[:2] == ["fedsim_tap", __version__]
    with zipfile.ZipFile(wheel) as held:
        held.extractall(root / "site")
    return root / "site"


def captured(out: Path, path: Path, *, code: str = "") -> tuple[dict[str, bytes], str]:
    """Run the project on what lies in ``path``; return its captures, and what came along."""
    run = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-P", "-c", code + run, str(PROJECT), str(out)],
        env=os.environ | {"PYTHONPATH": str(path), "FLWR_TELEMETRY_ENABLED": "0"},
        cwd=out.parent, capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}
    return files, done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_without_torch_the_captures_are_the_same_byte_for_byte(site: Path, tmp_path: Path) -> None:
    alone, _ = captured(tmp_path / "alone", site, code=BLOCK)
    whole, came = captured(tmp_path / "whole", ROOT)
    assert came == "came along:"  # nothing: it needs no torch where there is one
    assert alone == whole
    names = ("broadcast.safetensors", "observation.json", "update.safetensors")
    wanted = {f"round={r}/client={c}/{name}" for r in (1, 2) for c in range(3) for name in names}
    assert set(alone) == wanted


@pytest.mark.slow
def test_the_wheel_holds_no_more_than_the_tap_needs(site: Path) -> None:
    held = {str(path.relative_to(site)) for path in site.rglob("*.py")}
    tap = {f"fedsim/tap/{path.name}" for path in (ROOT / "fedsim" / "tap").glob("*.py")}
    assert held == tap | {f"fedsim/{name}.py" for name in NAMES}
    for name in held:
        assert (site / name).read_bytes() == (ROOT / name).read_bytes()
    assert (site / "fedsim" / "py.typed").exists() and (site / "fedsim/tap/LICENSE").exists()
    (metadata,) = site.glob("*.dist-info/METADATA")
    told = HeaderParser().parsestr(metadata.read_text(encoding="utf-8"))
    needs = [line.partition(">")[0] for line in told.get_all("Requires-Dist") or []]
    assert sorted(needs) == ["flwr", "numpy", "safetensors"]
    assert told["Requires-Python"] == ">=3.10"


def test_the_tap_is_written_for_the_oldest_python_that_flower_is_on() -> None:
    files = [*(ROOT / "fedsim" / "tap").glob("*.py"), *(ROOT / f"fedsim/{n}.py" for n in NAMES)]
    for path in files:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
