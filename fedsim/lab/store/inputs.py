"""What a run reads besides its config: the files of its data, model and tokenizer, by their digest.

A run that goes on must read what it began with, or its rounds are not those of one run.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from fedsim.errors import BadInput
from fedsim.lab.config import Config

PART = 2**20  # bytes to read at once


def digests(config: Config) -> dict[str, str]:
    """Return the SHA-256 of each input of ``config`` that is a file or a folder, by its key."""
    named = {
        "model.name": config.model.name,
        "model.tokenizer": config.model.tokenizer,
        "data.name": config.data.name,
        "data.path": config.data.path,
        "data.template": config.data.template,
    }
    paths = {key: Path(str(name)) for key, name in named.items() if name}
    return {  # a name of a model or a data set is no path, whatever the working directory holds
        key: _digest(path) for key, path in paths.items() if path.is_absolute() and path.exists()
    }


def check_inputs(config: Config, began: Mapping[str, str]) -> None:
    """Raise BadInput where an input is no longer what a run began with.

    ``began`` are its digests then; one that is not among them nobody can compare.
    """
    now = digests(config) if began else {}
    changed = [key for key, digest in began.items() if now.get(key) != digest]
    if changed:
        raise BadInput(
            f"{', '.join(changed)}: the files are not those that this run began with; put them "
            "back, or begin another run"
        )


def _digest(path: Path) -> str:
    """Return the digest of a file, or of the names and contents of the files in a folder."""
    whole = hashlib.sha256()
    files = [path] if not path.is_dir() else sorted(_files(path))
    for file in files:
        whole.update(f"{file.relative_to(path)}\0".encode())
        whole.update(_content(file))
    return whole.hexdigest()


def _files(folder: Path) -> list[Path]:
    """Return the regular files in a folder: what never ends is no input of a run."""
    return [
        path
        for root, _, names in os.walk(folder)
        for name in names
        if (path := Path(root, name)).is_file()
    ]


def _content(file: Path) -> bytes:
    digest = hashlib.sha256()
    if stat.S_ISREG(file.stat().st_mode):
        with file.open("rb") as opened:
            while part := opened.read(PART):
                digest.update(part)
    return digest.digest()
