"""Paths in a config that work from any directory: a run may go on from another."""

from pathlib import Path
from typing import Any

from clients.texts import TEMPLATES
from fedsim.lab.config.schema import Config
from fedsim.models import ModelSpec


def there(name: str) -> str:
    """Return ``name`` as an absolute path where it is one: Ray's workers may be elsewhere."""
    return str(Path(name).absolute()) if name and Path(name).exists() else name


def paths_of(spec: ModelSpec) -> dict[str, Any]:
    """Return what of a model's spec may be a path, absolute where it is one."""
    return {name: there(getattr(spec, name)) for name in ("name", "tokenizer", "adapter")}


def absolute(config: Config) -> Config:
    """Return ``config`` with absolute paths."""
    model, data = config.model, config.data
    name = there(data.name) if Path(data.name).is_file() else data.name
    template = data.template if data.template in TEMPLATES else there(data.template)
    return config.model_copy(
        update={
            "model": model.model_copy(
                update={"name": there(model.name), "tokenizer": there(model.tokenizer)}
            ),
            "data": data.model_copy(
                update={"name": name, "path": there(data.path), "template": template}
            ),
        }
    )
