"""Runs the cells of a sweep, in this process or as Ray tasks; what is done is never run again."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from fedsim.errors import BadInput
from fedsim.lab.config import Config
from fedsim.lab.display import Display, Silent, SweepDisplay
from fedsim.lab.environment import quiet_libraries, set_environment, shut_in_ray
from fedsim.lab.run.prepare import prepare
from fedsim.lab.run.secrecy import UNCLAIMED, claims
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.sweep import CellEnd, write_end
from fedsim.lab.sweep.cells import ended, run_cell
from fedsim.lab.sweep.directory import Ledger, SweepDirectory
from fedsim.lab.sweep.grid import Cell
from fedsim.lab.sweep.interrupts import remembered
from fedsim.linux import keep_memory_private
from fedsim.rng import Secret

Job = tuple[Cell, Path | None]  # a cell, and the finished one whose captures it attacks


def check_cells(cells: Sequence[Cell], jobs: int, *, secret: bool = False) -> None:
    """Check all cells against the world, before the first of them starts.

    Raises:
        BadInput: what is wrong, and in which cell; or there is a ``secret`` that none draws from.
    """
    claimed = False
    if jobs < 1:
        raise BadInput(f"--jobs must be at least 1, got {jobs}")
    for cell in near(cells):
        try:
            claimed |= claims(prepare(cell.config).defenses)
            if jobs > 1 and cell.config.federation.engine == "ray":
                raise BadInput(
                    "federation.engine: 'ray' already runs a cell's clients side by side; use "
                    "'inline' with --jobs, or --jobs 1"
                )
        except BadInput as error:
            raise BadInput(
                f"{error} (in the cell {cell.name})" if len(cells) > 1 else error
            ) from error
    if secret and not claimed:
        raise BadInput(UNCLAIMED)


def near(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells ordered so that those with the same data, seed and model are neighbours."""

    def key(cell: Cell) -> tuple[str, int, str, int]:
        config = cell.config
        return str(config.data), config.seed, str(config.model), config.federation.clients

    return sorted(cells, key=key)


def run_cells(
    cells: Sequence[Cell],
    directory: SweepDirectory,
    ledger: Ledger,
    display: SweepDisplay,
    *,
    jobs: int,
    secret: Secret | None = None,
) -> None:
    """Run every cell that is not done; how each ended is in ``ledger`` and on disk.

    Args:
        cells: all of the sweep.
        directory: the sweep's.
        ledger: what is known of them.
        display: shows progress.
        jobs: how many at a time.
        secret: what their clients draw from where a defense claims a guarantee; None: one for each.
    """
    queue = Queue(cells, directory, ledger)
    if not queue.left:
        return
    quick = ledger.sweep().quick
    workers: Workers = (
        InProcess(directory, quick, secret, display)
        if jobs == 1
        else OnRay(directory, quick, secret, jobs)
    )
    try:
        with remembered() as raise_lost:
            for cell, end in _drive(queue, workers, jobs, ledger, display):
                ledger.note(cell.name, end)
                display.ended(cell.name, end)
                raise_lost()
    finally:
        workers.close()
        for name, record in list(ledger.cells.items()):
            if record.status == "running":
                ledger.note(name, CellEnd(status="waiting"))
        ledger.save()


def _drive(
    queue: "Queue", workers: "Workers", jobs: int, ledger: Ledger, display: SweepDisplay
) -> Iterator[tuple[Cell, CellEnd]]:
    running = 0
    while queue.left or running:
        while running < jobs and (job := queue.take()):
            ledger.note(job[0].name, CellEnd(status="running", error=None))
            display.began(job[0].name)
            workers.start(*job)
            running += 1
        cell, end = workers.wait()
        running -= 1
        queue.ended(cell, end.status == "done")
        yield cell, end


@dataclass
class Queue:
    """Which cell may start: of those that train alike one trains, the others wait for it."""

    cells: Sequence[Cell]
    directory: SweepDirectory
    ledger: Ledger
    left: list[Cell] = field(default_factory=list)
    sources: dict[str, Path] = field(default_factory=dict)  # of a training: a cell that has done it
    training: set[str] = field(default_factory=set)  # trainings that run

    def __post_init__(self) -> None:
        """Find what is done; what has failed is tried again."""
        for cell in near(self.cells):
            if self.ledger.cells[cell.name].status != "done":
                self.left.append(cell)
            elif RunDirectory(where := self.directory.cell(cell.name)).captures.is_dir():
                self.sources.setdefault(cell.training, where)  # `fedsim clean` takes them away

    def take(self) -> Job | None:
        """Return the next cell that can start, or None."""
        for cell in self.left:
            source = self.sources.get(cell.training)
            if source or cell.training not in self.training:
                self.left.remove(cell)
                if source is None:
                    self.training.add(cell.training)
                return cell, source
        return None

    def ended(self, cell: Cell, done: bool) -> None:
        """Take note that a cell has ended."""
        self.training.discard(cell.training)
        if done:
            self.sources.setdefault(cell.training, self.directory.cell(cell.name))


class Workers(Protocol):
    """Where cells run."""

    def start(self, cell: Cell, source: Path | None) -> None:
        """Start a cell."""

    def wait(self) -> tuple[Cell, CellEnd]:
        """Return a cell that has ended, and how."""

    def close(self) -> None:
        """Stop what still runs."""


class InProcess:
    """Runs one cell after the other, here; model and data stay in memory between them."""

    def __init__(
        self, directory: SweepDirectory, quick: bool, secret: Secret | None, display: Display
    ) -> None:
        self._directory, self._quick, self._display = directory, quick, display
        self._secret = secret
        self._next: list[Job] = []

    def start(self, cell: Cell, source: Path | None) -> None:
        """Put it down: it runs when it is waited for."""
        self._next.append((cell, source))

    def wait(self) -> tuple[Cell, CellEnd]:
        """Run it."""
        cell, source = self._next.pop()
        root = self._directory.cell(cell.name)
        end = run_cell(
            root, cell.config, source, self._secret, quick=self._quick, display=self._display
        )
        return cell, end

    def close(self) -> None:
        """Nothing runs on."""


class OnRay:
    """Runs cells as Ray tasks, ``jobs`` at a time; each gets its share of the GPUs there are."""

    def __init__(
        self, directory: SweepDirectory, quick: bool, secret: Secret | None, jobs: int
    ) -> None:
        set_environment()  # before Ray is imported; its workers inherit it
        shut_in_ray()
        import ray

        self._ray, self._directory, self._quick, self._secret = ray, directory, quick, secret
        ray.init(
            address="local",
            num_cpus=jobs,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        share = min(1.0, torch.cuda.device_count() / jobs)
        options = {"num_cpus": 1, "num_gpus": share, "max_retries": 0}
        self._task = ray.remote(**options)(_task)
        self._running: dict[Any, Cell] = {}

    def start(self, cell: Cell, source: Path | None) -> None:
        """Hand it to Ray."""
        root = self._directory.cell(cell.name).absolute()
        there = None if source is None else str(source.absolute())
        tree = cell.config.as_toml()
        task = self._task.remote(str(root), tree, there, self._secret, self._quick)
        self._running[task] = cell

    def wait(self) -> tuple[Cell, CellEnd]:
        """Return what ended first."""
        (task,), _ = self._ray.wait(list(self._running), num_returns=1)
        cell = self._running.pop(task)
        try:
            end: CellEnd = self._ray.get(task)
        except self._ray.exceptions.RayError as error:  # its process died: no memory, a signal
            why = f"the cell's process died: {error}".splitlines()[0]
            end = ended(why, 0.0, quotes=False)  # Ray's words: what a cell raises ends in its own
            write_end(self._directory.cell(cell.name), end)
        return cell, end

    def close(self) -> None:
        """End Ray, and with it what still runs."""
        self._ray.shutdown()


def _task(
    root: str, tree: dict[str, Any], source: str | None, secret: Secret | None, quick: bool
) -> CellEnd:
    from fedsim.lab.config import check

    keep_memory_private()
    quiet_libraries()
    config: Config = check(tree)
    there = None if source is None else Path(source)
    return run_cell(Path(root), config, there, secret, quick=quick, display=Silent())
