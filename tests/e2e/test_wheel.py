"""The wheel holds the five packages and their data, and works far from this repository."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

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
            f"{one}\n" for one in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        )
    )
    away = tmp_path / "away"
    away.mkdir()
    code = f"import {', '.join(PACKAGES)}; print(*[m.__file__ for m in ({', '.join(PACKAGES)})])"
    found = subprocess.run(
        [str(python), "-c", code], cwd=away, check=True, capture_output=True, text=True
    ).stdout.split()
    assert [Path(one).parent for one in found] == [site / name for name in PACKAGES]
    for package in PACKAGES:
        assert (site / package / "py.typed").exists()
    for data in ("models/tokenizer.json", "lab/quick_start.toml"):
        assert (site / "fedsim" / data).exists()
    command = python.with_name("fedsim")
    shown = subprocess.run([str(command), "--help"], cwd=away, check=True, capture_output=True)
    assert b"fedsim" in shown.stdout
    assert not list(site.glob("tests*")) and not list(site.glob("benchmarks*"))
