"""What the measurements of DAGER share: result files and options."""

import argparse
import ast
import functools
import hashlib
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from common.places import RESULTS, need_data
from torch import Tensor

from fedsim.files import write_json

Cell = dict[str, Any]
Parser = argparse.ArgumentParser


@dataclass
class Results:
    """A result file, written after every cell: a killed run keeps what it has.

    A cell is skipped when it was measured with the same settings on the same code.
    """

    path: Path
    head: Cell
    keep: bool = False  # skip cells that were measured on other code, too
    cells: dict[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        code()  # now: the files may be edited while the measurement runs
        if self.path.exists():
            self.cells = json.loads(self.path.read_text(encoding="utf-8")).get("cells", {})

    def known(self, name: str, settings: Cell) -> Cell | None:
        """Return the finished cell called ``name``, if it need not be measured again."""
        cell = self.cells.get(name)
        if cell is None or cell["settings"] != settings:
            return None
        return cell if self.keep or cell["code"] == code() else None

    def cell(self, name: str, settings: Cell, measure: Callable[[], Cell]) -> Cell:
        """Return the cell called ``name``: as it stands in the file, or measured now."""
        cell = self.known(name, settings)
        if cell is not None:
            print(f"{name}: already there", flush=True)
            return cell
        print(f"{name}: measuring", flush=True)
        return self.add(name, settings, measure())

    def add(self, name: str, settings: Cell, figures: Cell) -> Cell:
        """Store a cell and write the file."""
        self.cells[name] = {"settings": settings, "code": code(), **figures}
        self.write()
        return self.cells[name]

    def write(self, **more: Any) -> None:
        """Write the file, all or nothing."""
        write_json(self.path, {**self.head, **more, "cells": self.cells})


@functools.cache
def code(start: str = "attacks.dager.attack") -> str:
    """Return a fingerprint of the attack's code as the run found it, comments aside.

    It covers the module ``start`` and all of ``attacks`` and ``fedsim.models`` that it imports:
    their statements, in no order and without imports, so that moving files, or a function from one
    file to another, leaves it as it was.
    """
    read, queue = set[str](), [start]
    statements: list[str] = []
    while queue:
        module = queue.pop()
        path = _source(module)
        if module in read or module == "attacks" or path is None:
            continue
        read.add(module)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module.startswith(("attacks", "fedsim.models")):
                    queue += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                node.body = [part for part in node.body if not _is_docstring(part)]
        statements += [ast.dump(part) for part in tree.body if not _is_import(part)]
    return hashlib.sha256("\n".join(sorted(statements)).encode()).hexdigest()[:12]


def _source(module: str) -> Path | None:
    """Return the file of ``module``; None for a name that is none (a class that is imported)."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its parent is no package
        return None
    return Path(found.origin) if found is not None and found.origin is not None else None


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def arguments(description: str) -> Parser:
    """Return a parser with the options that every measurement has."""
    _wait_asleep()
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the result file; default: results/<name>.json")
    parser.add_argument("--seed", type=int, default=1, help="of the batches")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument(
        "--keep", action="store_true", help="keep finished cells though the code has changed"
    )
    return parser


def _wait_asleep() -> None:
    """Begin the process anew with OpenMP threads that sleep while they wait.

    By default they spin, and where other work has a core, one second of an attack becomes twenty:
    measured with 2 threads on 2 busy cores, 1.3 s against 2 to 27 s. OpenMP reads it at its start.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, sys.orig_argv)


def start(options: argparse.Namespace, name: str, claim: str, **more: Any) -> Results:
    """Set torch's threads and return the result file called ``name``."""
    need_data()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()  # a classifier's head is always new
    transformers.logging.disable_progress_bar()
    head = {
        "claim": claim,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with other work, no GPU",
        "threads": options.threads,
        "threads_wait": os.environ["OMP_WAIT_POLICY"].lower(),
        "load_at_start": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "dtype": "float32",
        "seed": options.seed,
        **more,
    }
    path = options.out or RESULTS / f"{name}.json"
    return Results(path=path, head=head, keep=options.keep)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def singular_values(tensor: Tensor) -> Tensor:
    """Return the singular values of a matrix, largest first, in float64."""
    values: Tensor = torch.linalg.svdvals(tensor.double())
    return values
