"""Tables of what was broken on purpose: files, captures, runs; and what isolation costs."""

from collections.abc import Callable
from typing import Any

from rows.markdown import Results, table


def fuzz(results: Results) -> str:
    """Mutated files, read or refused."""
    rows = [
        [f"`{name}`", f"{cell['mutations']:,}", f"{cell['read']:,}", f"{cell['refused']:,}",
         cell["failed"], cell["minutes"]]
        for name, cell in results["lab_fuzz"]["readers"].items()
    ]  # fmt: skip
    return table(["file", "mutations", "read", "refused in a line", "failed", "minutes"], rows)


def hostile(results: Results) -> str:
    """Captures made to break an attack."""
    rows = [
        [f"`{name}`", cell["captures"], cell.get("ran", 0), cell.get("an error in a line", 0),
         cell.get("refused", 0), f"{cell['slowest, ms'] / 1000:.1f}",
         f"{cell['largest, MB'] / 1000:.2f}", len(cell["faults"])]
        for name, cell in sorted(results["lab_hostile"]["attacks"].items())
    ]  # fmt: skip
    head = ["attack", "captures", "attempts that ended", "with an error in a line",
            "refused before", "slowest, s", "most held, GB", "wrong"]  # fmt: skip
    return table(head, rows)


def kills(results: Results) -> str:
    """Runs that were killed and went on."""
    rows = []
    for engine, killed in results["lab_kills"]["engines"].items():
        for run in sorted({one["run"] for one in killed}):
            some: list[dict[str, Any]] = [one for one in killed if one["run"] == run]
            rows.append(
                [engine, run, len(some), sum(len(one["killed_after_seconds"]) for one in some),
                 sum(bool(one["differs_in"]) for one in some),
                 sum(one["drafts_in_the_end"] for one in some)]
            )  # fmt: skip
    head = ["engine", "run", "runs", "kills", "ended otherwise", "drafts left"]
    return table(head, rows)


def isolation(results: Results) -> str:
    """What a process of their own costs attacks."""
    rows = [
        [job, len(cell["new"]), *(f"{cell[kind][side]:.1f}" for kind in ("seconds", "processor")
                                  for side in ("old", "new")),
         f"{100 * cell['seconds']['share']:+.0f} %"]
        for job in ("demo", "sweep") if (cell := results["isolation"].get(job))
    ]  # fmt: skip
    head = ["job", "turns", "seconds before", "after", "processor before", "after", "by the clock"]
    return table(head, rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "lab_fuzz": fuzz,
    "lab_hostile": hostile,
    "lab_kills": kills,
    "lab_isolation": isolation,
}
