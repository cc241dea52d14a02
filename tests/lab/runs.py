"""Runs as the command line does them, and all that one leaves behind."""

import hashlib
import json
from typing import Any

from fedsim.lab.config import Config
from fedsim.lab.display import Silent
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.store.run import RunDirectory
from fedsim.vault.keys import own_key


def go(run: RunDirectory, config: Config) -> dict[str, Any]:
    """Start the run, or go on with it, as the command line does."""
    made = prepare(config)
    if not (run.root / "config.toml").exists():
        run.create(config)
    return run_experiment(made, run, Silent())[0].as_dict()


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(one) for key, one in value.items() if key != "seconds"}
    return [untimed(one) for one in value] if isinstance(value, list) else value


def evidence(run: RunDirectory) -> dict[str, Any]:
    """All that a run leaves behind, times aside."""
    found: dict[str, Any] = {
        name: untimed(run.rows(name)) for name in ("rounds.jsonl", "reconstructions.jsonl")
    }
    found["summary"] = untimed(json.loads((run.root / "summary.json").read_text()))
    for path in sorted([*run.captures.rglob("*.*"), *run.vault.rglob("*.*")]):
        name, content = path.relative_to(run.root).as_posix(), path.read_bytes()
        if path.is_relative_to(run.vault):  # sealed anew each time
            content = own_key().opened(content, path.relative_to(run.vault).as_posix())
        found[name] = hashlib.sha256(content).hexdigest()
    return found


class Kill(KeyboardInterrupt):
    """Like a kill: nothing catches it, as nothing but this is left alone."""
