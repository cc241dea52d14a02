"""The inputs that once failed (``../shared/cases``), each by the command line: right or wrong.

    python benchmarks/run.py lab/cases [--only CASE ...]

What is right stands in ``lab/cases_expected.py``. A case is a few command lines in a folder that
holds a copy of the inputs and, in OUT, the odd models of ``make_models.py``. Exit code 1 where a
case is wrong that is not marked as still to come.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common.places import DATA, ROOT
from lab.cases_expected import CASES, Case, Left, Said

CASES_FOLDER = DATA.parent / "cases"


def main() -> int:
    """Take the cases, one after the other; return 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="CASE")
    options = parser.parse_args()
    if strange := set(options.only) - {case.name for case in CASES}:
        parser.error(f"unknown case {sorted(strange)}; known: {', '.join(c.name for c in CASES)}")
    if not CASES_FOLDER.is_dir():
        raise SystemExit("nothing to run: shared/cases is not beside the checkout")
    wrong = 0
    with tempfile.TemporaryDirectory() as work:
        here = Path(work) / "here"
        shutil.copytree(CASES_FOLDER, here)
        take(here, "python make_models.py OUT")
        for case in CASES:
            if not options.only or case.name in options.only:
                wrong += not told(case, here)
    print(f"{wrong} wrong that should be right")
    return 1 if wrong else 0


def told(case: Case, here: Path) -> bool:
    """Print how ``case`` went in the folder ``here``; return whether that is as it should be."""
    started = time.monotonic()
    said = [take(here, step, case.limit) for step in case.steps]
    try:
        why = case.wrong(Left(here, said))
    except (AssertionError, LookupError, OSError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
    mark = "right" if not why else f"not yet ({case.later})" if case.later else "WRONG"
    print(f"{mark:8} {case.name}: {case.expected} [{time.monotonic() - started:.0f} s]", flush=True)
    if why:
        print(f"         {why}", flush=True)
        print(*(f"         | {line}" for line in said[-1].err.splitlines()[-3:]), sep="\n")
    return not why or bool(case.later)


def take(here: Path, step: str, limit: float = 600.0) -> Said:
    """Run one command line in the folder ``here``, ``limit`` seconds at most."""
    words = shlex.split(step)
    if words[0] == "copy":
        shutil.copy(here / words[1], here / words[2])
        return Said(0, "", "")
    program = {"fedsim": ["-m", "fedsim.lab.cli"], "python": []}[words[0]]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *program, *words[1:]],
            cwd=here, env=environment, capture_output=True, text=True, timeout=limit, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Said(124, "", f"still running after {limit:.0f} s")
    return Said(done.returncode, done.stdout, done.stderr)


if __name__ == "__main__":
    sys.exit(main())
