"""Takes fedsim's command lines one after the other: the libraries are imported once, then it forks.

Three quarters of a small run are imports of torch, transformers, Flower and Ray. Each command line
is still a process of its own, with its own folder, output and exit code, that imports the
checkout's modules (those of ``PYTHONPATH``) as ``python -m fedsim.lab.cli`` does.

On stdin a line of JSON a command: ``words``, ``here``, ``out`` and ``err`` (files), ``kill_at``
(part of a file's path, or ""); on stdout its exit code, -9 where it was killed.
"""

import json
import os
import runpy
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: its names are none that a package of the user's has
LIBRARIES = (
    "torch", "transformers", "flwr.app", "flwr.simulation", "ray", "datasets", "peft", "opacus",
    "flwr_datasets.partitioner", "scipy.optimize", "scipy.stats", "pandas", "pyarrow.parquet",
    "matplotlib.figure", "pydantic", "rich.table", "jinja2", "rouge_score.rouge_scorer",
    "safetensors.torch", "tomli_w",
)  # fmt: skip


def main() -> None:
    """Fork for each line of stdin; ends when that does."""
    for name in LIBRARIES:
        import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(order)
            sys.argv = ["fedsim", *order["words"]]
            runpy.run_module("fedsim.lab.cli", run_name="__main__", alter_sys=True)
            sys.exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)


def _become(order: dict[str, Any]) -> None:
    """Take the folder and the files of ``order``, and be killed where it says."""
    os.chdir(order["here"])
    sys.path.insert(0, order["here"])  # as `python -m` has it
    for number, name in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
        file = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = Path(os.devnull).open()
    place = order["kill_at"]
    if place:

        def kill(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "os.rename" and place in os.fspath(arguments[1]):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)


if __name__ == "__main__":
    main()
