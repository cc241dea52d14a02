"""Which model captures are of: what they say of it, and what is said in its place."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedsim import limits
from fedsim.captures import Captured
from fedsim.errors import BadInput, unknown
from fedsim.lab.config import ModelSection, checked
from fedsim.models import ModelSpec, family_of
from fedsim.models.adapters import has_adapter, read_adapter
from fedsim.records import first_error


def given_model(said: Mapping[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return what was said of the model of somebody else's project, checked."""
    fields = _model_fields(said, overrides)
    if has_adapter(fields["name"]):
        fields = {**read_adapter(Path(fields["name"])), **fields, "adapter": fields["name"]}
        fields["name"] = read_adapter(Path(fields["adapter"]))["name"]
    for key in ("lora_targets", "freeze"):
        if key in fields:
            fields[key] = tuple(fields[key])
    return fields


def _model_fields(said: Mapping[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return what the captures say of the model, and what the command line says instead."""
    if not isinstance(overrides, dict):
        raise BadInput(f"model: wanted model.<key>=value, got {overrides!r}")
    known = set(ModelSection.model_fields) | {"num_labels", "seed"}
    for key in overrides:
        if key not in known:
            raise BadInput(unknown("key", f"model.{key}", [f"model.{name}" for name in known]))
    fields = {**said, **overrides}
    if "name" not in fields:
        raise BadInput(
            "model.name: the captures do not say which model this is; add model.name=<hub id or "
            "directory>; `fedsim inspect` says what they look like"
        )
    try:
        checked(ModelSection, {k: v for k, v in fields.items() if k in ModelSection.model_fields})
    except BadInput as error:
        raise BadInput(f"model.{error}") from error
    return fields


def captured_model(first: Captured, overrides: dict[str, Any]) -> ModelSpec:
    """Return the model: what the captures say of it, and what the command line says instead."""
    fields = _model_fields(first.model, overrides)
    name = family_of(fields["name"]).heads.get("classification")
    head = first.broadcast.parameters.get(f"{name}.weight")
    if head is not None:
        rows = head.shape[0] if head.dim() else 1
        if fields.setdefault("num_labels", rows) != rows:
            raise BadInput(
                f"model.num_labels: the head in the captures is of {rows} labels, "
                f"got {fields['num_labels']!r}"
            )
    return checked_spec(fields)


def checked_spec(fields: Mapping[str, Any]) -> ModelSpec:
    """Return ``fields`` as a spec: a capture may say anything."""
    known = {field.name for field in dataclasses.fields(ModelSpec)}
    if other := [name for name in fields if name not in known]:
        raise BadInput(unknown("key", f"model.{other[0]}", [f"model.{name}" for name in known]))
    try:
        spec = TypeAdapter(ModelSpec).validate_python(dict(fields))
    except ValidationError as error:
        raise BadInput(f"model.{first_error(error)}") from error
    for name, least, most in (("num_labels", 1, limits.LABELS), ("seed", 0, limits.INTEGER)):
        if not least <= getattr(spec, name) <= most:
            raise BadInput(f"model.{name}: wanted {least} to {most}, got {getattr(spec, name)}")
    return spec
