"""Does the command do what it did? Runs the same command lines on two checkouts and compares.

    python benchmarks/run.py lab/same OLD NEW [--only CASE ...] [--out DIR]

OLD and NEW are checkouts; the interpreter is this one. Compared exactly, times, dates, versions and
the machine aside: every file that is left behind (summary.json, reconstructions, samples, rounds
with their checksums, captures and weights tensor by tensor, tables by column, reports), what is
printed, exit codes. A side's results are kept in DIR by the content of its packages, so that only
what changed is run again. Differences that are meant stand in same_intended.py, each with its
reason; exit code 1 when there is any other.
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
from lab.same_fields import Fields, comparable, flat, is_text, of_directory, of_output
from lab.same_intended import INTENDED

PACKAGES = ("fedsim", "attacks", "defenses", "clients", "server")
SHOWN = 12  # differences of a case
WIDE = 300  # characters of one
PROCESS = Path(__file__).with_name("same_process.py")
KEPT = ("PATH", "HOME", "TMPDIR")  # of the environment; the rest is set


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
    sides = [Side(checkout, options.out) for checkout in (options.old, options.new)]
    for case in CASES:
        if options.only and case.name not in options.only:
            continue
        old, new = (side.results(case) for side in sides)
        lines = list(differences(case.name, old, new))
        unmeant = [line for line in lines if not _meant(line, used)]
        accidents += len(unmeant)
        steps = f"{len(case.steps)} steps, {len(old)} fields"
        print(f"{case.name}: {steps}, {len(lines)} differ, {len(unmeant)} not meant", flush=True)
        for line in unmeant[:SHOWN]:
            print(f"    {line[:WIDE]}", flush=True)
        for place, code in old.items():
            if place.endswith(":exit code") and code in (2, 4) and case.name != "bad-input":
                print(f"    {case.name}/{place} is {code} on OLD: it compares little", flush=True)
    for side in sides:
        side.close()
    for (pattern, reason), count in zip(INTENDED, used, strict=True):
        print(f"meant, {count} times: {reason}  [{pattern}]")
    print(f"{accidents} differences that are not meant")
    return 1 if accidents else 0


class Side:
    """A checkout, a process that takes command lines on it, and what cases left behind there."""

    def __init__(self, checkout: Path, out: Path) -> None:
        self.checkout = checkout.resolve()
        self._kept = out / fingerprint(checkout)
        self._work = out / f"work-{os.getpid():08d}"
        self._process: subprocess.Popen[str] | None = None

    def results(self, case: Case) -> Fields:
        """Return what ``case`` leaves behind, from DIR where it was run before."""
        kept = self._kept / f"{case.name}-{_digest(repr(case))}.json"
        if not kept.exists():
            started = time.monotonic()
            left = self._run(case)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(left), encoding="utf-8")
            spent = time.monotonic() - started
            print(f"{case.name} on {self.checkout}: {spent:.0f} s", flush=True)
        fields: Fields = json.loads(kept.read_text(encoding="utf-8"))
        return fields

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()

    def _run(self, case: Case) -> Fields:
        """Take the case's steps in an empty directory; return what came of it."""
        here = self._work / "here"
        shutil.rmtree(self._work, ignore_errors=True)
        here.mkdir(parents=True)
        for name, text in case.files.items():
            (here / name).parent.mkdir(exist_ok=True)
            (here / name).write_text(text, encoding="utf-8")
        fields: Fields = {}
        for number, step in enumerate(case.steps, start=1):
            words, place = shlex.split(step), ""
            if words[0] == "copy":
                shutil.copytree(here / words[1], here / words[2])
                continue
            if words[0] == "kill":
                _, place, *words = words
            fields.update(self._step(f"step {number}, {words[0]}", words, place))
        fields.update(of_directory(here))
        shutil.rmtree(self._work)
        placeless: Fields = json.loads(
            json.dumps(fields)
            .replace(str(here), "<here>")
            .replace(str(self.checkout), "<checkout>")
        )
        return placeless

    def _step(self, title: str, words: list[str], place: str) -> Fields:
        """Run one command line; return its exit code and what it printed."""
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None and self._process.stdout is not None
        out, err = self._work / "out", self._work / "err"
        order = {"words": words, "here": str(self._work / "here"), "kill_at": place}
        self._process.stdin.write(json.dumps(order | {"out": str(out), "err": str(err)}) + "\n")
        self._process.stdin.flush()
        return {
            f"{title}:exit code": int(self._process.stdout.readline()),
            **dict(flat(of_output(out.read_text(encoding="utf-8")), f"{title}:stdout")),
            f"{title}:stderr": err.read_text(encoding="utf-8").splitlines(),
        }

    def _start(self) -> "subprocess.Popen[str]":
        """Start the process; its packages are those of the checkout, or nothing is run."""
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {
            "PYTHONPATH": str(self.checkout),
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        names = ", ".join(PACKAGES)
        code = f"import {names}; print(*(package.__file__ for package in ({names})))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=self._work, env=environment, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        elsewhere = [f for f in done.stdout.split() if self.checkout not in Path(f).parents]
        if elsewhere:
            raise SystemExit(f"wanted the packages of {self.checkout}, got {elsewhere}")
        return subprocess.Popen(
            [sys.executable, str(PROCESS)], env=environment, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip


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


def differences(case: str, old: Fields, new: Fields) -> Iterator[str]:
    """Yield a line for each field that differs, and for each line of a text that does."""
    old, new = comparable(old), comparable(new)
    for place in dict.fromkeys((*old, *new)):
        before, after = old.get(place), new.get(place)
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
