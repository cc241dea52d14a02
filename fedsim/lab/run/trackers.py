"""Trackers: a finished run's curves, for those who look at many. The local files stay the truth.

``tracker = "tensorboard"`` (or a list) in the config. Each writes into ``trackers/<name>/`` of the
run, offline and without an account, anew whenever the run is scored: a resumed run is one curve.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Final

from fedsim.errors import BadInput, unknown
from fedsim.files import make_directory, make_private
from fedsim.lab.config.labels import flat
from fedsim.lab.store import layout
from fedsim.lab.store.rounds import RoundRecord
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.summary import Summary

Point = tuple[str, int, float]  # what, round, value
Facts = Mapping[str, str]  # the config, flat


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """One tracker: the package it needs, and how it writes a run into a directory."""

    package: str
    write: Callable[[Path, str, Facts, Sequence[Point]], None]


def check_trackers(names: Sequence[str]) -> None:
    """Check that every tracker is known and installed.

    Raises:
        BadInput: one is not; the line names the extra to install.
    """
    for name in names:
        if name not in TRACKERS:
            raise BadInput(unknown("tracker", name, TRACKERS))
        package = TRACKERS[name].package
        if find_spec(package) is None:
            raise BadInput(
                f"tracker: {name!r} needs the package {package!r}, which is not installed; "
                f"in a checkout of fedsim: pip install '.[{name}]'"
            )


def track(run: RunDirectory, summary: Summary, names: Sequence[str]) -> list[str]:
    """Write the run's curves to each tracker, in place of what was written before.

    Returns:
        a line for each tracker that failed: the run's own files are whole without it.
    """
    failed = []
    points = list(curves(run.rounds(), summary))
    facts = dict(flat(run.config().as_toml()))
    for name in names:
        root = (run.root / layout.TRACKERS / name).absolute()
        try:
            shutil.rmtree(root, ignore_errors=True)
            make_directory(root)
            TRACKERS[name].write(root, summary.name, facts, points)
            make_private(root)
        except (Exception, SystemExit) as error:  # what was trained and attacked is not lost for it
            why = " ".join(f"{type(error).__name__}: {error}".split())
            failed.append(f"the tracker {name!r} could not run: {why}")
    return failed


def curves(rounds: Sequence[RoundRecord], summary: Summary) -> Iterator[Point]:
    """Yield utility and seconds of each round, and each attack's means over its updates in it."""
    metric = summary.utility.metric if summary.utility else "utility"
    for record in rounds:
        if record.utility is not None:
            yield f"utility/{metric}", record.round, record.utility
        yield "seconds", record.round, record.seconds
    groups: dict[tuple[str, int, str], list[tuple[float, int]]] = {}
    for entry in summary.attacks:
        for name, value in entry.metrics.items():
            place = entry.attack, entry.round, name
            groups.setdefault(place, []).append((value, entry.count(name)))
    for (attack, round_, name), means in groups.items():
        values, counts = zip(*means, strict=True)
        if sum(counts):  # a mean over samples, not over updates
            yield f"leakage/{attack}/{name}", round_, fmean(values, counts)


def _tensorboard(root: Path, name: str, facts: Facts, points: Sequence[Point]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(root)) as writer:
        text = "\n".join(f"    {key} = {value}" for key, value in facts.items())
        writer.add_text("config", text)
        for what, round_, value in points:
            writer.add_scalar(what, value, round_)


def _wandb(root: Path, name: str, facts: Facts, points: Sequence[Point]) -> None:
    import wandb

    settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
    with environment(WANDB_ERROR_REPORTING="false"):
        run = wandb.init(
            project="fedsim",
            name=name,
            dir=root,
            mode="offline",
            config=dict(facts),
            settings=settings,
        )
        for round_ in sorted({point[1] for point in points}):
            run.log({w: value for w, at, value in points if at == round_}, step=round_)
        run.finish()


def _mlflow(root: Path, name: str, facts: Facts, points: Sequence[Point]) -> None:
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    with environment(MLFLOW_ALLOW_FILE_STORE="true", MLFLOW_DISABLE_TELEMETRY="true"):
        (root / ".trash").mkdir()  # its store remembers to have made one before
        client = MlflowClient(tracking_uri=root.as_uri())
        run = client.create_run(client.create_experiment("fedsim"), run_name=name)
        client.log_batch(
            run.info.run_id,
            metrics=[Metric(what, value, 0, round_) for what, round_, value in points],
            params=[Param(key, value) for key, value in facts.items()],
        )
        client.set_terminated(run.info.run_id)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set variables that a library reads, inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


TRACKERS: Final[Mapping[str, Tracker]] = {
    "mlflow": Tracker(package="mlflow", write=_mlflow),
    "tensorboard": Tracker(package="tensorboard", write=_tensorboard),
    "wandb": Tracker(package="wandb", write=_wandb),
}
