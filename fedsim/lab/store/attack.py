"""What ``fedsim attack`` leaves: guesses and scores of its own, over a run that was finished."""

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from fedsim.errors import BadInput, MalformedFile
from fedsim.files import read_json, write_json
from fedsim.lab.config import Config, check
from fedsim.lab.store import layout
from fedsim.lab.store.manifest import manifest
from fedsim.lab.store.run import RunDirectory


@dataclass(frozen=True)
class AttackDirectory(RunDirectory):
    """Its own reconstructions and summary; captures and truth are those of the run attacked."""

    @property
    def run(self) -> RunDirectory:
        """The run that was attacked."""
        return RunDirectory(self.root / self._record("run", str))

    @property
    @override
    def captures(self) -> Path:
        return self.run.captures

    @property
    @override
    def vault(self) -> Path:
        return self.run.vault

    @override
    def check(self) -> None:
        if not layout.is_finished(self.run.root):
            raise BadInput(
                f"{str(self.root)!r} holds an attack on the run in {str(self.run.root)!r}, which "
                "is no finished run any more: what it read cannot be held against the truth"
            )

    @override
    def config(self) -> Config:
        """Return the run's config, with this attack in place of its own."""
        return check(self._record("config", dict))

    def _record(self, key: str, kind: type) -> Any:
        path = self.root / layout.ATTACK
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get(key), kind):
            raise MalformedFile(f"{path}: wanted a table with {key}; give the attack again")
        return record[key]


def open_run(root: Path) -> RunDirectory:
    """Return the run, or the attack on a run's captures, that ``root`` holds.

    Raises:
        BadInput: it holds an attack on the captures of a run that was not finished then.
    """
    if layout.is_attack(root):
        return AttackDirectory(root)
    run = RunDirectory(root)
    if layout.is_finished(root) and not layout.is_run(root):
        raise BadInput(
            f"{str(root)!r} holds an attack on captures of no finished run, which has no settings "
            "to report; finish the run (fedsim run --out RUN --resume), then give the attack again"
        )
    return run


def begin_attack(out: Path) -> RunDirectory:
    """Return the directory of an attack that is to be run; an earlier one's results are removed."""
    run = RunDirectory(out)
    if (out / layout.ATTEMPTS).exists():  # else what lies there is not an attack's
        (out / layout.SAMPLES).unlink(missing_ok=True)
        for path in run.errors.glob("round=*"):
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # where it is not there, or holds what is not ours
            run.errors.rmdir()
    for name in (layout.SUMMARY, layout.ATTACK, layout.ATTEMPTS):
        (out / name).unlink(missing_ok=True)
    return run


def note_attack(out: Path, run: Path, config: Config) -> None:
    """Note in ``out`` which run was attacked, and with which config that would be a run."""
    where = os.path.relpath(run.resolve(), out.resolve())
    write_json(out / layout.MANIFEST, manifest(config))
    write_json(out / layout.ATTACK, {"schema": 1, "run": where, "config": config.as_toml()})
