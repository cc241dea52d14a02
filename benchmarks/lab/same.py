"""Does the command do what it did? Runs the same command lines on two checkouts and compares.

    python benchmarks/run.py lab/same OLD NEW [--only CASE ...] [--out DIR]

OLD and NEW are checkouts; the interpreter is this one. Compared exactly, times, dates, versions and
the machine aside: every file that is left behind (summary.json, reconstructions, samples, rounds
with their checksums, captures and weights tensor by tensor, tables by column, reports), what is
printed, exit codes. A side's results are kept in DIR by the content of its packages, so that only
what changed is run again. Differences that are meant stand in INTENDED, each with its reason; exit
code 1 when there is any other.
"""

import argparse
import difflib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lab.same_cases import CASES, Case
from lab.same_fields import Fields, flat, is_text, masked, of_directory, of_output

PACKAGES = ("fedsim", "attacks", "defenses", "clients", "server")
SHOWN = 12  # differences of a case, and characters of a value
WIDE = 300
KILLER = """
import os, signal, sys
def hook(event, arguments, place=os.environ.get("SAME_KILL_AT")):
    if place and event == "os.rename" and place in os.fspath(arguments[1]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""
INTENDED: tuple[tuple[str, str], ...] = ()
"""(a regular expression for the whole line of a difference, why it is meant)."""


def main() -> int:
    """Compare two checkouts; return 1 where they differ in what is not meant to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", nargs="*", default=[], metavar="CASE")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "fedsim-same")
    options = parser.parse_args()
    wrong = set(options.only) - {case.name for case in CASES}
    if wrong:
        parser.error(f"unknown case {sorted(wrong)}; known: {', '.join(c.name for c in CASES)}")
    used, accidents = [0] * len(INTENDED), 0
    for case in CASES:
        if options.only and case.name not in options.only:
            continue
        old, new = (results(case, side, options.out) for side in (options.old, options.new))
        lines = list(differences(case.name, old, new))
        unmeant = [line for line in lines if not _meant(line, used)]
        accidents += len(unmeant)
        steps = f"{len(case.steps)} steps, {len(old)} fields"
        print(f"{case.name}: {steps}, {len(lines)} differ, {len(unmeant)} not meant", flush=True)
        for line in unmeant[:SHOWN]:
            print(f"    {line[:WIDE]}", flush=True)
    for (pattern, reason), count in zip(INTENDED, used, strict=True):
        print(f"meant, {count} times: {reason}  [{pattern}]")
    print(f"{accidents} differences that are not meant")
    return 1 if accidents else 0


def results(case: Case, checkout: Path, out: Path) -> Fields:
    """Return what ``case`` leaves behind on ``checkout``, from DIR where it was run before."""
    kept = out / fingerprint(checkout) / f"{case.name}-{_digest(repr(case))}.json"
    if not kept.exists():
        started = time.monotonic()
        left = run(case, checkout.resolve(), out / f"work-{os.getpid()}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(left), encoding="utf-8")
        print(f"{case.name} on {checkout}: {time.monotonic() - started:.0f} s", flush=True)
    fields: Fields = json.loads(kept.read_text(encoding="utf-8"))
    return fields


def fingerprint(checkout: Path) -> str:
    """Return a digest of the packages in ``checkout``."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((checkout / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(path.relative_to(checkout).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run(case: Case, checkout: Path, work: Path) -> Fields:
    """Take the case's steps on ``checkout`` in an empty directory; return what came of it."""
    shutil.rmtree(work, ignore_errors=True)
    here, hook = work / "here", work / "hook"
    for folder in (here, hook):
        folder.mkdir(parents=True)
    (hook / "sitecustomize.py").write_text(KILLER)
    for name, text in case.files.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text, encoding="utf-8")
    environment = _environment(checkout, hook, work)
    fields: Fields = {}
    for number, step in enumerate(case.steps, start=1):
        words = shlex.split(step)
        if words[0] == "copy":
            shutil.copytree(here / words[1], here / words[2])
            continue
        fields.update(_step(f"step {number}, {_title(words)}", words, here, environment))
    fields.update(of_directory(here))
    shutil.rmtree(work)
    return fields


def _title(words: list[str]) -> str:
    return words[2 if words[0] == "kill" else 0]


def _step(title: str, words: list[str], here: Path, environment: dict[str, str]) -> Fields:
    """Run one command line; return its exit code and what it printed."""
    if words[0] == "kill":
        environment = {**environment, "SAME_KILL_AT": words[1]}
        words = words[2:]
    done = subprocess.run(
        [sys.executable, "-m", "fedsim.lab.cli", *words], cwd=here, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    where = str(here)
    return {
        f"{title}:exit code": done.returncode,
        **dict(flat(of_output(done.stdout.replace(where, "<here>")), f"{title}:stdout")),
        f"{title}:stderr": done.stderr.replace(where, "<here>").splitlines(),
    }


def _environment(checkout: Path, hook: Path, work: Path) -> dict[str, str]:
    """Return a plain environment whose packages are those of ``checkout``."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    environment = kept | {
        "PYTHONPATH": os.pathsep.join((str(hook), str(checkout))),
        "PYTHONPYCACHEPREFIX": str(work.parent / "bytecode"),
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    code = f"import {', '.join(PACKAGES)}; print(*(m.__file__ for m in ({', '.join(PACKAGES)})))"
    files = subprocess.run(
        [sys.executable, "-c", code], cwd=work, env=environment, check=True, capture_output=True,
        text=True,
    ).stdout.split()  # fmt: skip
    elsewhere = [file for file in files if checkout not in Path(file).parents]
    if elsewhere:
        raise SystemExit(f"wanted the packages of {checkout}, got {elsewhere}")
    return environment


def differences(case: str, old: Fields, new: Fields) -> Iterator[str]:
    """Yield a line for each field that differs, and for each line of a text that does."""
    for place in dict.fromkeys((*old, *new)):
        before, after = (masked(place, side.get(place)) for side in (old, new))
        if json.dumps(before) == json.dumps(after) and (place in old) == (place in new):
            continue
        if is_text(before) and is_text(after):
            for line in difflib.unified_diff(before, after, lineterm="", n=0):
                if not re.match(r"---|\+\+\+|@@", line):
                    yield f"{case}/{place}: {line}"
        else:
            yield f"{case}/{place}: {_shown(old, place)} -> {_shown(new, place)}"


def _shown(fields: Fields, place: str) -> str:
    return json.dumps(fields[place], ensure_ascii=False) if place in fields else "nothing"


def _meant(line: str, used: list[int]) -> bool:
    """Return whether a difference is one of INTENDED, and count it there."""
    for place, (pattern, _) in enumerate(INTENDED):
        if re.search(pattern, line):
            used[place] += 1
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
