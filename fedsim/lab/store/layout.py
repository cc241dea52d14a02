"""The names of all that a run, an attack and a sweep leave: people's scripts rely on them.

What a client or the server writes on its own has its names where that is done: ``fedsim.captures``
(in ``CAPTURES``), ``fedsim.vault`` (in ``VAULT``, and ``audit`` beside it), ``clients.memory``.
"""

from pathlib import Path

from fedsim.lab.config.recipes import FILE

LOCK = ".lock"  # in a directory where somebody works, if its file system locks files alone
RUNS = Path("runs")  # where a run lies that was given no --out

# A run's directory
CONFIG = "config.toml"  # resolved; without one there is no run
MANIFEST = "manifest.json"  # versions, config, machine, dtype, commit, of when it began
ROUNDS = "rounds.jsonl"  # a line a round, that of the start among them
ATTEMPTS = "reconstructions.jsonl"  # a line for each time an attack was run, controls among them
SAMPLES = "samples.jsonl"  # a line a sample: its truth, what was read of it, how well
SUMMARY = "summary.json"  # written last: without one the run is not finished
CAPTURES = "captures"
VAULT = "vault"
CHECKPOINTS = "checkpoints"
ERRORS = "errors"  # the tracebacks of plugins that raised
TRACKERS = "trackers"
CANARIES = "audit.json"  # of `fedsim audit-dp`
REPORT = "report.html"
REPORT_FILES = "report"  # its plots and tables

# What `fedsim attack` leaves besides
ATTACK = "attack.json"  # which run was attacked, and how

# A sweep's directory
SWEEP = "sweep.json"  # what the cells are, and how each of them ended
CELLS = "cells"  # a run's directory each
CELL = "cell.json"  # in a cell's directory: how it ended
TABLE = "table.parquet"  # a row for each (cell, attack, round, client, sample)
PAPER = FILE  # the figures of the paper that a recipe is about


def is_run(directory: Path) -> bool:
    """Return whether ``directory`` holds a run, finished or not."""
    return (directory / CONFIG).exists()


def is_finished(directory: Path) -> bool:
    """Return whether ``directory`` holds the results of a run or an attack."""
    return (directory / SUMMARY).exists()


def is_attack(directory: Path) -> bool:
    """Return whether ``directory`` holds an attack on the captures of a finished run."""
    return (directory / ATTACK).exists()


def is_sweep(directory: Path) -> bool:
    """Return whether ``directory`` holds a sweep."""
    return (directory / SWEEP).exists()


def is_ours(directory: Path) -> bool:
    """Return whether ``directory`` holds what one of our commands left, finished or not."""
    return is_run(directory) or is_attack(directory) or is_sweep(directory)
