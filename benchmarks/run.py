"""Run a measurement, whatever folder one is in; without a name, list them.

    python benchmarks/run.py dager/exact --batches 5

Rooms are no package (opacus installs one that is called benchmarks): what is run, and what it
imports from ``common`` and its neighbours, is found from this folder, and the code that it measures
is the checkout's own.
"""

import os
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOMS = ("dager", "matching", "learned", "membership", "counts", "defenses", "field", "lab")
APART = ("lab/isolation", "lab/same", "lab/same_process")  # of two checkouts: never by `make bench`


def measurements() -> list[str]:
    """Return the names of all that measures this checkout."""
    files = (path for room in ROOMS for path in sorted((HERE / room).glob("*.py")))
    return [
        f"{path.parent.name}/{path.stem}"
        for path in files
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
        and f"{path.parent.name}/{path.stem}" not in APART
    ]


def main() -> None:
    """Run the measurement that the first argument names, with the others as its own."""
    names = measurements()
    if len(sys.argv) < 2:
        print(*names, sep="\n")
        return
    if sys.argv[1] not in (*names, *APART[:2]):
        raise SystemExit(f"unknown measurement {sys.argv[1]!r}; known: {', '.join(names)}")
    script = HERE / f"{sys.argv[1]}.py"
    sys.argv = [str(script), *sys.argv[2:]]
    folders = [str(HERE.parent), str(HERE)]
    sys.path[:0] = folders
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)  # for the commands that it starts
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
