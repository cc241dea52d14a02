"""How a project's clients train: what its server tells them, in the words that projects use."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedsim.errors import BadInput, MalformedMessage, unknown
from fedsim.training import TrainingSettings
from fedsim.types import Scalar

NAMES: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr", "eta", "client_lr", "local_lr", "client_learning_rate"),
    "local_epochs": ("epochs", "num_epochs", "num_train_epochs", "local_epoch", "num_local_epochs"),
    "max_steps": ("local_steps", "num_steps", "local_iterations"),
    "mini_batch_size": (
        "batch_size",
        "train_batch_size",
        "local_batch_size",
        "per_device_train_batch_size",
    ),
    "optimizer": ("optim", "local_optimizer", "client_optimizer"),
    "weight_decay": ("wd",),
}
"""What else the keys of [training] are called, with ``_`` for ``-``; by their last part."""


def training_config(
    sent: Mapping[str, Scalar], kind: str, given: Mapping[str, Any]
) -> dict[str, Scalar]:
    """Return a broadcast's config in our words: what was given, else what it says.

    Raises:
        BadInput: what was given is no setting of a training.
    """
    known = {field.name for field in fields(TrainingSettings)}
    for key in given:
        if key not in known:
            raise BadInput(unknown("key", f"training.{key}", [f"training.{k}" for k in known]))
    words = {alias: key for key, names in NAMES.items() for alias in (key, *names)}
    told: dict[str, Any] = {
        k: v for k, v in sent.items() if k in known - set(NAMES) and _fits(k, v)
    }
    for name, value in sent.items():
        meant = words.get(name.replace("-", "_").rsplit(".", 1)[-1].lower())
        if meant and (fit := _fitting(meant, value)) is not None:
            told.setdefault(meant, fit)
    config = {"algorithm": "fedavg" if kind == "delta" else "fedsgd"}
    others = {name: value for name, value in sent.items() if name not in known}
    whole = {**others, **config, **told, **given}
    try:
        TrainingSettings.from_config(whole)
    except MalformedMessage as error:
        raise BadInput(str(error)) from error
    return whole


def _fits(key: str, value: Scalar) -> bool:
    """Return whether ``value`` can be what our own setting of that name is."""
    try:
        TrainingSettings.from_config({key: value})
    except MalformedMessage:
        return False
    return True


def _fitting(key: str, value: Scalar) -> Scalar | None:
    """Return a project's setting as ours; None where it is none."""
    if isinstance(value, bool):
        return None
    if key == "optimizer":
        name = str(value).lower()
        return "adamw" if "adam" in name else "sgd" if name.startswith("sgd") else None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    whole = key in ("local_epochs", "max_steps", "mini_batch_size")
    if whole:
        return int(value) if value == int(value) and value >= 1 else None
    return float(value)


def open_questions(config: Mapping[str, Scalar], kind: str) -> list[str]:
    """Return the keys of [training] that a positive control would have to know, and does not."""
    if kind != "delta":
        return []
    return [f"training.{key}" for key in ("learning_rate", "optimizer") if key not in config]
