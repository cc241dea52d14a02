"""Stands where ``wandb`` is not installed: what is logged goes nowhere."""

from typing import Any


def init(**settings: Any) -> None:
    """Begin a run."""


def log(values: dict[str, Any], **settings: Any) -> None:
    """Take values."""


def define_metric(name: str, **settings: Any) -> None:
    """Take a metric's name."""
