"""manifest.json: what it takes to run the same again."""

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fedsim.lab.config import Config
from fedsim.lab.store.inputs import digests

PACKAGES = (
    "fedsim", "torch", "transformers", "flwr", "ray", "datasets", "flwr-datasets", "peft",
    "opacus", "numpy", "scipy", "safetensors", "rouge-score",
)  # fmt: skip


def manifest(config: Config, *, quick: bool = False, command: str = "") -> dict[str, Any]:
    """Return versions, config, inputs, machine, dtype and commit of a run that starts now."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **({"command": command} if command else {}),
        "seed": config.seed,
        "config": config.as_toml(),
        "quick": quick,
        "inputs": digests(config),
        "versions": _versions(),
        "python": platform.python_version(),
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "dtype": {"compute": "float32", "wire": config.training.wire_dtype},
        "git": _commit(),
    }


@functools.cache
def _versions() -> Mapping[str, str | None]:
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@functools.cache
def _commit() -> str | None:
    """Return the commit of the source checkout, or None: installed from a wheel, or no git."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
