"""Adapters of the built-in presets, made once, and a small experiment that runs in a second."""

import functools
from pathlib import Path
from typing import Any

import pytest

from fedsim.flower import set_identity
from fedsim.lab.config import Config, check
from fedsim.models import ModelAdapter, ModelSpec, load_adapter


@functools.cache
def preset(name: str = "gpt2-tiny", task: Any = "classification") -> ModelAdapter:
    return load_adapter(ModelSpec(name=f"builtin:{name}", weights="random", task=task))


def experiment(**sections: Any) -> Config:
    """A config of 4 clients, 3 of them a round, on short texts; ``sections`` replaces keys."""
    tree: dict[str, Any] = {
        "model": {"name": "builtin:gpt2-tiny"},
        "data": {"name": "builtin:clinic", "evaluate": 16, "max_length": 12},
        "federation": {"clients": 4, "clients_per_round": 3, "rounds": 3},
        "training": {"batch_size": 2},
    }
    for name, keys in sections.items():
        tree[name] = {**tree.get(name, {}), **keys} if isinstance(keys, dict) else keys
    return check(tree)


@pytest.fixture(autouse=True)
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_identity()
    monkeypatch.chdir(tmp_path)  # whatever writes to runs/ does so here
