"""One cell of a sweep: a run in a directory of its own, or attacks on what another cell captured.

Cells that differ in their attacks only train alike, so one of them trains, and the others attack
its captures. What they leave behind is what a full run would have left, times aside.
"""

import os
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fedsim.captures import CapturePath, captured_clients, place, read_capture
from fedsim.errors import FedsimError, RunFailed
from fedsim.files import make_directory, read_json, write_atomically, write_json, write_lines
from fedsim.lab.config import Config
from fedsim.lab.display import Display
from fedsim.lab.run.attacking import Clients
from fedsim.lab.run.experiment import attack_runner, run_experiment, summarize
from fedsim.lab.run.faults import keep_traceback
from fedsim.lab.run.prepare import Experiment, prepare
from fedsim.lab.scoring.scorer import Scored
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import rows_of
from fedsim.messages import Broadcast, Update

RECORD = "cell.json"
SAMPLES = "samples.jsonl"


def run_cell(
    root: Path, config: Config, source: Path | None, *, quick: bool, display: Display
) -> dict[str, Any]:
    """Run what is left of a cell, note how it ended in ``root`` and return that.

    Args:
        root: the cell's directory.
        config: what to run.
        source: a finished cell that trained alike; None: train.
        quick: skip the controls.
        display: shows progress.

    Returns:
        ``status`` (``done`` or ``failed``), ``error`` in one line or None, ``seconds`` in all, of
        which ``working``: training, evaluation, attacks, controls, their scores.
    """
    run = RunDirectory(root)
    before = sum(row["seconds"] for row in run.rows("rounds.jsonl"))  # of a cell that was killed
    started = time.perf_counter() - before
    (run.errors / "cell.txt").unlink(missing_ok=True)  # of an earlier try
    try:
        summary, scores = _run(run, config, source, quick=quick, display=display)
        write_lines(root / SAMPLES, rows_of(summary, scores))
        working = summary["seconds"] + summary["scoring"]["seconds"]
        record = ended(None, time.perf_counter() - started, working)
    except FedsimError as error:
        record = ended(str(error), time.perf_counter() - started)
    except Exception as error:  # of a plugin or a library: the other cells go on
        keep_traceback(run.errors, "cell", error)
        record = ended(f"{type(error).__name__}: {error}", time.perf_counter() - started)
    write_json(root / RECORD, record)
    return record


def ended(error: str | None, seconds: float, working: float = 0.0) -> dict[str, Any]:
    """Return how a cell ended; ``error``: None when it is done."""
    return {
        "status": "failed" if error else "done",
        "error": " ".join(error.split()) if error else None,
        "seconds": round(seconds, 3),
        "working": round(working, 3),
    }


def how_it_ended(root: Path) -> dict[str, Any] | None:
    """Return what :func:`run_cell` noted in ``root``, or None where it did not come to that."""
    path = root / RECORD
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path)
    return record


def _run(
    run: RunDirectory, config: Config, source: Path | None, *, quick: bool, display: Display
) -> tuple[dict[str, Any], list[Scored]]:
    experiment = prepare(config)
    if not (run.root / "config.toml").exists():
        run.create(config)
    if source is None:
        return run_experiment(experiment, run, display, quick=quick)
    return attack_captures(experiment, run, RunDirectory(source), display, quick=quick)


def attack_captures(
    experiment: Experiment,
    run: RunDirectory,
    source: RunDirectory,
    display: Display,
    *,
    quick: bool = False,
) -> tuple[dict[str, Any], list[Scored]]:
    """Give ``run`` the rounds of ``source``, attack them as its own config says, and score.

    Raises:
        RunFailed: the captures are not there, or the disk cannot be written.
    """
    for name in ("vault", "audit", "memory", "captures"):
        _link(source.root / name, run.root / name)
    done = [row["round"] for row in run.rows("rounds.jsonl")]
    run.forget_after(max(done, default=-1))  # a round that a killed cell was attacking
    runner = attack_runner(experiment, run, display, quick=quick)
    for row in source.rows("rounds.jsonl"):
        if row["round"] in done:
            continue
        started = time.perf_counter()
        if row["round"]:
            runner.attack_round(_seen(experiment, run, row, source))
        run.append("rounds.jsonl", {**row, "seconds": round(time.perf_counter() - started, 3)})
    _link(source.checkpoints, run.checkpoints)
    return summarize(experiment, run, quick=quick)


def _seen(
    experiment: Experiment, run: RunDirectory, row: Mapping[str, Any], source: RunDirectory
) -> list[tuple[Clients, Broadcast, Update]]:
    """Return what some attack wants to see of a round, in the order in which it was answered.

    Raises:
        RunFailed: a client answered whose update is not there, neither alone nor in a sum.
    """
    found = [
        CapturePath(row["round"], client, where)
        for client in row["clients"]
        if (where := place(run.captures, row["round"], client)).is_dir()  # else in another's sum
    ]
    wants = [one.wants for one in experiment.planned]
    wanted = [one for one in found if any(w(row["round"], captured_clients(one)) for w in wants)]
    there = {client for one in found for client in captured_clients(one)}
    gone = [one for one in row["clients"] if one not in there]
    if lost := [one for one in gone if any(w(row["round"], (one,)) for w in wants)]:
        raise RunFailed(
            f"round {row['round']}, client {lost[0]}: the capture is gone from {source.captures}; "
            f"remove {source.root}, and it is trained again"
        )
    captured = [read_capture(one) for one in wanted]
    return [(one.clients, one.broadcast, one.update) for one in captured]


def _link(source: Path, target: Path) -> None:
    """Have ``target`` hold the files of ``source``, by hard links: nobody writes into them."""
    for path in sorted(source.rglob("*")):
        if path.is_dir() or path.suffix == ".tmp":
            continue
        new = target / path.relative_to(source)
        make_directory(new.parent, wanted=new)
        try:
            os.link(path, new)
        except FileExistsError:  # by a cell that was killed
            continue
        except OSError:  # a file system without links
            write_atomically(new, partial(shutil.copyfile, path))
