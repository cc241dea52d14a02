"""What a table of the config is made of: its kind, paths, and defaults that stand elsewhere."""

from dataclasses import MISSING, fields
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A table of the config: unknown keys are errors, values keep their types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), strict=True, allow_inf_nan=False
    )


def _path(text: str) -> str:
    if "\0" in text or any(len(part.encode(errors="replace")) > 255 for part in text.split("/")):
        raise PydanticCustomError("file_name", "a name that a file can have")
    return text


PathText = Annotated[str, AfterValidator(_path)]


def default_of(kind: type, name: str, about: str, **limits: Any) -> Any:
    """Return a key that goes into the field ``name`` of the settings ``kind``, and their default.

    Args:
        kind: the settings, a dataclass.
        name: of the field, and of the key.
        about: what the key means.
        limits: what else pydantic's ``Field`` takes.
    """
    (field,) = [field for field in fields(kind) if field.name == name]
    made = field.default_factory() if field.default_factory is not MISSING else field.default
    default = list(made) if isinstance(made, tuple) else made
    return Field(default, description=about, **limits)
