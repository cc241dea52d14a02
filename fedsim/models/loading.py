"""From a spec to an adapter: presets, local directories, hub ids."""

import functools
from dataclasses import replace
from pathlib import Path

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from fedsim.errors import BadInput
from fedsim.models.base import ModelAdapter
from fedsim.models.families import family, preset
from fedsim.models.presets import preset_tokenizer
from fedsim.models.spec import ModelSpec

BUILTIN = "builtin:"


def load_adapter(spec: ModelSpec) -> ModelAdapter:
    """Return the adapter for ``spec``; weights are built or read when they are first needed.

    Raises:
        BadInput: the model, its tokenizer or its family cannot be had; one line says why.
    """
    config = _config(spec.name)
    kind = family_of(spec.name, config)
    if spec.name.startswith(BUILTIN):
        spec = replace(spec, weights="random")  # a preset has no others
    tokenizer = _tokenizer(spec, kind)
    if len(tokenizer) > int(config.vocab_size):
        raise BadInput(
            f"model.tokenizer: it has {len(tokenizer)} tokens, but {spec.name!r} embeds only "
            f"{config.vocab_size}"
        )
    options = {} if spec.weights == "random" else _kept_only(spec.name)
    return kind(spec, config, tokenizer, options)


def family_of(name: str, config: PreTrainedConfig | None = None) -> type[ModelAdapter]:
    """Return the family of the model called ``name``; ``config`` is its, where it is at hand.

    Raises:
        BadInput: there is no such model, or none of its family.
    """
    config = config or _config(name)
    return family(config.model_type, f"model.name: {name!r} is")


def _config(name: str) -> PreTrainedConfig:
    if name.startswith(BUILTIN):
        return preset(name.removeprefix(BUILTIN))
    _check_directory(name, "config.json", "model.name")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(name, **_kept_only(name))
    except (OSError, ValueError, StrictDataclassError) as error:
        raise BadInput(f"model.name: {_reason(name, error)}") from error
    return config


def _tokenizer(spec: ModelSpec, kind: type[ModelAdapter]) -> PreTrainedTokenizerBase:
    name = spec.tokenizer or spec.name
    if name.startswith(BUILTIN):
        return preset_tokenizer(kind)
    _check_directory(name, "tokenizer* or vocab*", "model.tokenizer")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **_kept_only(name))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BadInput(f"model.tokenizer: {_reason(name, error)}") from error
    return tokenizer


@functools.cache
def _unreachable(name: str) -> bool:
    """Ask the hub for ``name`` once, briefly: the loaders would try for half a minute."""
    try:
        HfApi().model_info(name, timeout=5.0)
    except (OSError, ValueError, httpx.HTTPError):
        return True
    return False


def _kept_only(name: str) -> dict[str, bool]:
    """Return how loaders read ``name``: never its code, and the hub only where it answers."""
    away = Path(name).is_dir() or _unreachable(name)
    return {"trust_remote_code": False, "local_files_only": away}


def _check_directory(name: str, needed: str, key: str) -> None:
    path = Path(name)
    if path.is_dir():
        if not any(file for pattern in needed.split(" or ") for file in path.glob(pattern)):
            raise BadInput(f"{key}: the directory {name!r} holds no {needed} file")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise BadInput(f"{key}: wanted a hub id, a directory or builtin:<preset>, got {name!r}")


def _reason(name: str, error: Exception) -> str:
    if Path(name).is_dir():
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"the directory {name!r} cannot be read: {line}"
    return (
        f"{name!r} is neither a directory nor in the local cache, and the model hub did not give "
        "it; wanted a hub id, a directory or builtin:<preset>"
    )
