"""A run's directory: every file is whole or not there, and a killed run goes on from it."""

import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedsim.errors import BadInput
from fedsim.files import append_line, read_lines, write_json, write_lines, write_tensors, write_text
from fedsim.lab.config import Config, check, read_toml
from fedsim.types import Parameters
from server import Progress

KEPT = 2  # checkpoints
PACKAGES = (
    "fedsim", "torch", "transformers", "flwr", "ray", "datasets", "flwr-datasets", "peft",
    "opacus", "numpy", "scipy", "safetensors", "rouge-score",
)  # fmt: skip


def checksum(parameters: Parameters) -> str:
    """Return the SHA-256 of all weights, by sorted name: equal bits, equal checksum."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        digest.update(parameters[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run, by the names that other people's scripts rely on."""

    root: Path

    @classmethod
    def default(cls, config: Config) -> "RunDirectory":
        """Return ``runs/<name>-<UTC>-<hash>``, the hash over the resolved config."""
        text = json.dumps(config.as_toml(), sort_keys=True, default=str)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        return cls(
            Path("runs") / f"{config.name}-{now}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        )

    @property
    def captures(self) -> Path:
        """What the server saw."""
        return self.root / "captures"

    @property
    def vault(self) -> Path:
        """What the clients trained on."""
        return self.root / "vault"

    @property
    def checkpoints(self) -> Path:
        """Where a killed run goes on."""
        return self.root / "checkpoints"

    @property
    def errors(self) -> Path:
        """The tracebacks of plugins that raised: one line of each is told elsewhere."""
        return self.root / "errors"

    def create(self, config: Config) -> None:
        """Make the directory and write what the run is: config and manifest.

        Raises:
            BadInput: there is a run already.
        """
        if (self.root / "config.toml").exists():
            raise BadInput(
                f"--out: {str(self.root)!r} already holds a run; add --resume to go on with it, "
                "or choose another directory"
            )
        if self.root.exists() and not self.root.is_dir():
            raise BadInput(f"--out: {str(self.root)!r} is not a directory")
        write_json(self.root / "manifest.json", manifest(config))
        write_text(self.root / "config.toml", tomli_w.dumps(config.as_toml()))

    def check(self) -> None:
        """Make sure that this is a run.

        Raises:
            BadInput: it is none.
        """
        if not (self.root / "config.toml").exists():
            raise BadInput(f"{str(self.root)!r} holds no run (no config.toml)")

    def config(self) -> Config:
        """Return the config of a run that is to go on.

        Raises:
            BadInput: there is no run here.
        """
        path = self.root / "config.toml"
        if not path.exists():
            raise BadInput(f"--resume: {str(self.root)!r} holds no run (no config.toml)")
        return check(read_toml(path))

    def save(self, progress: Progress) -> None:
        """Write a checkpoint and drop those that are no longer needed."""
        tensors: dict[str, Tensor] = {f"w/{k}": v for k, v in progress.parameters.items()}
        tensors |= {f"s/{k}": v for k, v in progress.strategy.items()}
        path = self.checkpoints / f"round={progress.round}.safetensors"
        write_tensors(path, tensors, {"order": json.dumps(list(tensors))})
        for path in self._checkpoints()[:-KEPT]:
            path.unlink()

    def _checkpoints(self) -> list[Path]:
        paths = self.checkpoints.glob("round=*.safetensors")
        return sorted(paths, key=lambda path: int(path.stem.removeprefix("round=")))

    def latest(self) -> Progress | None:
        """Return the newest checkpoint that can be read, or None before the first."""
        for path in reversed(self._checkpoints()):
            try:
                with safe_open(path, framework="pt") as file:
                    # By place, not by name: FedAvgM keeps its momentum as a list.
                    order = json.loads(file.metadata()["order"])
                    tensors = {name: file.get_tensor(name) for name in order}
            except (OSError, SafetensorError):
                continue
            return Progress(
                round=int(path.stem.removeprefix("round=")),
                parameters={k[2:]: v for k, v in tensors.items() if k.startswith("w/")},
                strategy={k[2:]: v for k, v in tensors.items() if k.startswith("s/")},
            )
        return None

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append one line to ``name``, e.g. rounds.jsonl."""
        append_line(self.root / name, row)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of ``name``; none where it does not exist."""
        return list(read_lines(self.root / name))

    def forget_after(self, round_: int) -> None:
        """Drop what a killed run noted about rounds that will be run again."""
        for name in ("rounds.jsonl", "reconstructions.jsonl"):
            if (self.root / name).exists():
                kept = [row for row in self.rows(name) if row["round"] <= round_]
                write_lines(self.root / name, kept)
        for path in self.errors.glob("round=*"):
            if int(path.name.removeprefix("round=")) > round_:
                shutil.rmtree(path)


def manifest(config: Config) -> dict[str, Any]:
    """Return what it takes to run the same again: versions, seed, machine, dtype, commit."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
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
