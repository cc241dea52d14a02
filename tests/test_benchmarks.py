"""Every measurement can be started; none is run here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "benchmarks" / "run.py"
HELP = """
import contextlib, io, json, sys
sys.path.insert(0, sys.argv[1])
import run
said = {}
for name in run.measurements():
    sys.argv = ["run.py", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        run.main()
    said[name] = out.getvalue()
print(json.dumps(said))
"""


@pytest.mark.slow
def test_every_measurement_says_what_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HELP, str(RUN.parent)],
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},  # else it begins anew, to have it set
        capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    rooms = {"dager", "matching", "learned", "membership", "counts", "defenses", "field", "lab"}
    scripts = {f"{path.parent.name}/{path.stem}" for path in RUN.parent.glob("*/*.py")}
    assert set(said) <= scripts and {name.split("/")[0] for name in said} == rooms
    for name, text in said.items():
        assert text.startswith(f"usage: {name.split('/')[1]}.py [-h]") and len(text) > 100, name


def test_what_is_listed_is_what_the_table_tells_of() -> None:
    done = subprocess.run(
        [sys.executable, str(RUN)],
        capture_output=True, text=True, check=True, timeout=1200,
    )  # fmt: skip
    listed = done.stdout.split()
    table = (RUN.parent / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([a-z]+/[a-z0-9_]+)` \|", table, re.MULTILINE)
    assert len(listed) >= 15 and sorted(listed) == sorted(told)


def test_an_unknown_measurement_is_told_which_there_are() -> None:
    done = subprocess.run(
        [sys.executable, str(RUN), "dager/exakt"],
        capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 1
    assert "unknown measurement 'dager/exakt'; known: dager/" in done.stderr
