"""How a project's clients train: what its server tells them, in the words that projects use."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedsim.errors import BadInput, unknown
from fedsim.lab.config import TrainingSection, checked
from fedsim.training import MOMENTUM, TrainingSettings
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
    "max_grad_norm": ("grad_clip", "gradient_clipping", "clip_grad_norm"),
    "lr_scheduler": ("lr_scheduler_type",),
    "warmup_steps": ("num_warmup_steps",),
    "proximal_mu": (),
    "wire_dtype": (),
    "dropout": (),
}
"""What else the keys of [training] are called, with ``_`` for ``-``; by their last part."""
OTHERS = frozenset({"server", "strategy", "eval", "evaluate", "evaluation", "test", "val", "valid"})
"""What a key's other parts are called where it is not the client's."""
ASKED = ("learning_rate", "optimizer", "mini_batch_size", "dropout")


def training_config(
    sent: Mapping[str, Scalar], kind: str, given: Mapping[str, Any]
) -> dict[str, Scalar]:
    """Return a broadcast's config in our words: what was given, else what it says.

    Of what is said twice, in two ways, nothing counts as said.

    Raises:
        BadInput: what was given is no setting of a training.
    """
    known = {field.name for field in fields(TrainingSettings)} - {"algorithm"}
    if other := sorted(set(given) - known):
        raise BadInput(unknown("key", f"training.{other[0]}", [f"training.{k}" for k in known]))
    _check(given)
    words = {alias: key for key, names in NAMES.items() for alias in (key, *names)}
    told: dict[str, set[Scalar]] = {}
    for name, value in sent.items():
        *parents, last = name.replace("-", "_").lower().split(".")
        key: str | None = words.get(last)
        if key is None or OTHERS & set(parents):
            continue
        if (fit := _fitting(key, value, sent)) is not None:
            told.setdefault(key, set()).add(fit)
    others = {name: value for name, value in sent.items() if name not in {*known, "algorithm"}}
    clear = {key: values.pop() for key, values in told.items() if len(values) == 1}
    return {
        **others,
        "algorithm": "fedavg" if kind == "delta" else "fedsgd",
        **clear,
        **given,
    }


def _check(settings: Mapping[str, Any]) -> None:
    """Raise BadInput where a setting is none that a client of ours could be told."""
    plain = {k: v for k, v in settings.items() if k in TrainingSection.model_fields}
    try:
        checked(TrainingSection, plain)
    except BadInput as error:
        raise BadInput(f"training.{error}") from error
    infinite = [k for k, v in plain.items() if isinstance(v, float) and not math.isfinite(v)]
    if infinite:
        raise BadInput(f"training.{infinite[0]}: wanted a finite number, got {plain[infinite[0]]}")


def _fitting(key: str, value: Scalar, sent: Mapping[str, Scalar]) -> Scalar | None:
    """Return a project's setting as ours; None where it is none."""
    if key == "optimizer":
        value = _optimizer(str(value).lower(), sent)
    elif isinstance(value, str) and key != "wire_dtype":
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) != (key == "dropout"):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        _check({key: value})
    except BadInput:
        return None
    return value


def _optimizer(name: str, sent: Mapping[str, Scalar]) -> str:
    """Return our name of a client's optimizer; "" where we have none."""
    if name.startswith("fed") or "_fed" in name:
        return ""
    if "adam" in name:
        return "adamw"
    momentum = sent.get("momentum", MOMENTUM if "momentum" in name else 0.0)
    if "sgd" not in name and "momentum" not in name:
        return ""
    return "sgd" if not momentum else "momentum" if momentum == MOMENTUM else ""


def open_questions(config: Mapping[str, Scalar], kind: str) -> list[str]:
    """Return the keys of [training] that a positive control would have to know, and does not."""
    asked = ["dropout"] if kind != "delta" else list(ASKED)
    if kind == "delta" and not {"local_epochs", "max_steps"} & set(config):
        asked.insert(2, "local_epochs")
    return [f"training.{key}" for key in asked if key not in config]
