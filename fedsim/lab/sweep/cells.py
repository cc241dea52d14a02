"""One cell of a sweep: a run in a directory of its own, or attacks on what another cell captured.

Cells that differ in their attacks only train alike, so one of them trains, and the others attack
its captures. What they leave behind is what a full run would have left, times aside.
"""

import os
import shutil
import time
import traceback
from functools import partial
from pathlib import Path

from clients.memory import ClientMemory
from fedsim.captures import CapturePath, captured_clients, place, read_capture
from fedsim.errors import FedsimError, RunFailed, redacted
from fedsim.files import DRAFT, make_directory, write_atomically
from fedsim.lab.config import Config
from fedsim.lab.display import Display
from fedsim.lab.run.experiment import attack_runner, run_experiment, summarize
from fedsim.lab.run.faults import keep_traceback
from fedsim.lab.run.planned import Clients
from fedsim.lab.run.prepare import Experiment, prepare
from fedsim.lab.run.secrecy import claims, give_secret
from fedsim.lab.store import layout
from fedsim.lab.store.changes import begun_with
from fedsim.lab.store.lock import held
from fedsim.lab.store.rounds import RoundRecord
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.summary import Summary
from fedsim.lab.store.sweep import CellEnd, write_end
from fedsim.messages import Broadcast, Update
from fedsim.rng import Secret
from fedsim.vault import audit_root


def run_cell(
    root: Path,
    config: Config,
    source: Path | None,
    secret: Secret | None = None,
    *,
    quick: bool,
    display: Display,
) -> CellEnd:
    """Run what is left of a cell, note how it ended in ``root`` and return that.

    Args:
        root: the cell's directory.
        config: what to run.
        source: a finished cell that trained alike; None: train.
        secret: what clients draw from where a defense claims a guarantee; None: one of the cell's.
        quick: skip the controls.
        display: shows progress.
    """
    run = RunDirectory(root)
    before = sum(record.seconds for record in run.rounds())  # of a cell that was killed
    started = time.perf_counter() - before
    (run.errors / "cell.txt").unlink(missing_ok=True)  # of an earlier try
    try:
        summary = _run(run, config, source, secret, quick=quick, display=display)
        working = summary.seconds + summary.scoring["seconds"]
        end = ended(None, time.perf_counter() - started, working)
    except FedsimError as error:
        quotes = redacted(error) != str(error)
        end = ended(str(error), time.perf_counter() - started, quotes=quotes)
    except KeyboardInterrupt:  # the user's
        raise
    except BaseException as error:  # of a plugin or a library, an exit too: the other cells go on
        keep_traceback(run.errors, "cell", "".join(traceback.format_exception(error)))
        end = ended(f"{type(error).__name__}: {error}", time.perf_counter() - started)
    write_end(root, end)
    return end


def ended(
    error: str | None, seconds: float, working: float = 0.0, *, quotes: bool = True
) -> CellEnd:
    """Return how a cell ended; ``error``: None when it is done, ``quotes``: it may quote texts."""
    return CellEnd(
        status="failed" if error else "done",
        error=" ".join(error.split()) if error else None,
        quotes=bool(error) and quotes,
        seconds=round(seconds, 3),
        working=round(working, 3),
    )


def _run(
    run: RunDirectory,
    config: Config,
    source: Path | None,
    secret: Secret | None,
    *,
    quick: bool,
    display: Display,
) -> Summary:
    experiment = prepare(config)
    with held(run.root):
        if layout.is_run(run.root):
            begun_with(run.root, config, quick=quick)
        else:
            if secret is not None and source is None and claims(experiment.defenses):
                give_secret(run.vault, experiment.defenses, secret)
            run.create(config, quick=quick)
        if source is None:
            return run_experiment(experiment, run, display, quick=quick)[0]
        return attack_captures(experiment, run, RunDirectory(source), display, quick=quick)


def attack_captures(
    experiment: Experiment,
    run: RunDirectory,
    source: RunDirectory,
    display: Display,
    *,
    quick: bool = False,
) -> Summary:
    """Give ``run`` the rounds of ``source``, attack them as its own config says, and score.

    Raises:
        RunFailed: the captures are not there, or the disk cannot be written.
    """
    _link(source.vault, run.vault)
    _link(audit_root(source.vault), audit_root(run.vault))
    _link(ClientMemory.beside(source.vault).root, ClientMemory.beside(run.vault).root)
    _link(source.captures, run.captures)
    done = [record.round for record in run.rounds()]
    run.forget_after(max(done, default=-1))  # a round that a killed cell was attacking
    runner = attack_runner(experiment, run, display, quick=quick)
    for record in source.rounds():
        if record.round in done:
            continue
        started = time.perf_counter()
        if record.round:
            runner.attack_round(_observed(experiment, run, record, source))
        seconds = round(time.perf_counter() - started, 3)
        run.note_round(record.model_copy(update={"seconds": seconds}))
    _link(source.checkpoints, run.checkpoints)
    return summarize(experiment, run, quick=quick)[0]


def _observed(
    experiment: Experiment, run: RunDirectory, record: RoundRecord, source: RunDirectory
) -> list[tuple[Clients, Broadcast, Update]]:
    """Return what some attack wants to see of a round, in the order in which it was answered.

    Raises:
        RunFailed: a client answered whose update is not there, neither alone nor in a sum.
    """
    round_ = record.round
    places = [
        CapturePath(round_, client, where)
        for client in record.clients
        if (where := place(run.captures, round_, client)).is_dir()  # else in another's sum
    ]
    cohorts = {where: captured_clients(where) for where in places}
    there = {client for cohort in cohorts.values() for client in cohort}
    gone = [client for client in record.clients if client not in there]
    if lost := [client for client in gone if _wanted(experiment, round_, (client,))]:
        raise RunFailed(
            f"round {round_}, client {lost[0]}: the capture is gone from {source.captures}; "
            f"remove {source.root}, and it is trained again"
        )
    wanted = [where for where, cohort in cohorts.items() if _wanted(experiment, round_, cohort)]
    captures = [read_capture(where) for where in wanted]
    return [(capture.clients, capture.broadcast, capture.update) for capture in captures]


def _wanted(experiment: Experiment, round_: int, clients: Clients) -> bool:
    return any(planned.wants(round_, clients) for planned in experiment.planned)


def _link(source: Path, target: Path) -> None:
    """Have ``target`` hold the files of ``source``, by hard links: nobody writes into them."""
    for path in sorted(source.rglob("*")):
        if path.is_dir() or any(map(DRAFT.fullmatch, path.parts)):
            continue
        new = target / path.relative_to(source)
        make_directory(new.parent, wanted=new)
        try:
            os.link(path, new)
        except FileExistsError:  # by a cell that was killed
            continue
        except OSError:  # a file system without links
            write_atomically(new, partial(shutil.copyfile, path))
