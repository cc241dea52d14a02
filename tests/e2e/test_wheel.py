"""The wheel holds the five packages and their data, and works far from this repository."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from fedsim import __version__

ROOT = Path(__file__).parents[2]
PACKAGES = ("attacks", "clients", "defenses", "fedsim", "server")


@pytest.mark.slow
def test_the_wheel_works_outside_the_repository(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(install, check=True)
    # The dependencies are those of the environment under test: installing them again takes minutes.
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(
        "".join(
            f"{folder}\n"
            for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        )
    )
    away = tmp_path / "away"
    away.mkdir()
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = f"import {', '.join(PACKAGES)}; print(*[m.__file__ for m in ({', '.join(PACKAGES)})])"
    files = subprocess.run(
        [str(python), "-c", code], cwd=away, env=plain, check=True, capture_output=True, text=True
    ).stdout.split()
    assert [Path(file).parent for file in files] == [site / name for name in PACKAGES]
    for package in PACKAGES:
        assert (site / package / "py.typed").exists()
    for data in ("models/tokenizer.json", "lab/config/quick_start.toml"):
        assert (site / "fedsim" / data).exists()
    command = python.with_name("fedsim")
    help_ = [str(command), "--help"]
    shown = subprocess.run(help_, cwd=away, env=plain, check=True, capture_output=True)
    assert b"fedsim" in shown.stdout
    assert wheel.name.split("-")[:2] == ["fedsim", __version__]
    assert not list(site.glob("tests*")) and not list(site.glob("benchmarks*"))
