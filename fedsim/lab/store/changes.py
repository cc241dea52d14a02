"""Whether the run that goes on is the one that began: its config against that in the manifest."""

import hashlib
import json
from pathlib import Path
from typing import Any

from fedsim.errors import BadInput, MalformedFile
from fedsim.lab.config import Config, check
from fedsim.lab.config.labels import flat
from fedsim.lab.store import layout
from fedsim.lab.store.inputs import check_inputs
from fedsim.records import FileRecord, read_record

ROUNDS = "federation.rounds"  # may grow
FREE = (  # how a run runs, and not what comes of it
    "device", "tracker", "federation.engine", "federation.on_failure", "federation.timeout",
    "federation.ray_address", "federation.cpus_per_client", "federation.gpus_per_client",
)  # fmt: skip


OTHERS = ("name", "attack")  # whole keys that no client's answer hangs on, either


def identity(config: Config) -> str:
    """Return a digest of what clients train on and how: all that a config says of their answers.

    Not how many rounds there are: a run may go on for longer.
    """
    tree = {key: value for key, value in config.as_toml().items() if key not in OTHERS}
    told = [row for row in flat(tree) if row[0] not in (*FREE, ROUNDS, "federation.capture")]
    return hashlib.sha256(json.dumps(sorted(told)).encode()).hexdigest()


class Beginning(FileRecord):
    """What a manifest tells of how a run began; those of before tell less."""

    config: dict[str, Any] | None = None
    quick: bool | None = None  # without controls
    inputs: dict[str, str] = {}


def begun_with(root: Path, config: Config, *, quick: bool) -> Config:
    """Return the config that the run in ``root`` began with, which can go on with ``config``.

    Of a run whose manifest does not tell, as those of before, that is ``config``.

    Raises:
        BadInput: something else would come of it.
        MalformedFile: the manifest does not say what it must.
    """
    path = root / layout.MANIFEST
    if not path.exists():
        return config
    told = read_record(path, Beginning)
    if told.config is None:
        return config
    try:
        began = check(told.config)
    except BadInput as error:
        raise MalformedFile(f"{path}, config: {error}") from error
    _check_unchanged(began, config)
    check_inputs(config, told.inputs)
    if told.quick not in (None, quick):
        raise BadInput(
            f"--quick: this run was begun {'with' if told.quick else 'without'} it; go on so"
        )
    return began


def _check_unchanged(began: Config, config: Config) -> None:
    old, new = (dict(flat(one.as_toml())) for one in (began, config))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if config.federation.rounds > began.federation.rounds:
        changed.remove(ROUNDS)
    told = [
        f"{key} was {old.get(key, 'not there')}, is {new.get(key, 'not there')}"
        for key in changed
        if key not in FREE
    ]
    if told:
        raise BadInput(
            f"{layout.CONFIG} is not what this run began with: {'; '.join(told)}; put that back, "
            "or begin another run"
        )
