"""From a spec to an adapter: presets, local directories, hub ids."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
from huggingface_hub import HfApi, constants
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from fedsim.errors import BadInput, reading
from fedsim.hub import PATIENCE, ask
from fedsim.models.adapters import adapted, has_adapter, read_adapter
from fedsim.models.base import ModelAdapter
from fedsim.models.families import family, preset
from fedsim.models.presets import preset_tokenizer
from fedsim.models.spec import ModelSpec
from fedsim.models.tokenizing import check_tokenizer

BUILTIN = "builtin:"
LARGEST = {  # of a size that a config.json may tell; beyond, building the model would not end
    "vocab_size": 10**7,
    "hidden_size": 10**6,
    "num_hidden_layers": 1000,
    "max_position_embeddings": 10**9,
}


def load_adapter(spec: ModelSpec) -> ModelAdapter:
    """Return the adapter for ``spec``; weights are built or read when they are first needed.

    Raises:
        BadInput: the model, its tokenizer or its family cannot be had; one line says why.
    """
    spec = adapted(spec)
    config = _config(spec.name)
    kind = family_of(spec.name, config)
    if spec.name.startswith(BUILTIN):
        spec = replace(spec, weights="random")  # a preset has no others
    _check_config(config, spec)
    options = {} if spec.weights == "random" else _kept_only(spec.name)
    adapter = kind(spec, config, _tokenizer(spec, kind), options)
    model = repr(spec.name)
    check_tokenizer(adapter.tokenizer, spec.task, config.vocab_size, "model.tokenizer", model)
    return adapter


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
    if has_adapter(name):
        name = str(read_adapter(Path(name))["name"])
    _check_directory(name, "config.json", "model.name")
    with _from(name, "model.name"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(name, **_kept_only(name))
    return config


def _check_config(config: PreTrainedConfig, spec: ModelSpec) -> None:
    """Raise BadInput where no model that can be trained is as ``config`` tells."""
    for size, largest in LARGEST.items():
        value = getattr(config, size, None)
        if value is None and size == "max_position_embeddings":  # relative positions have no end
            continue
        if not isinstance(value, int) or not 1 <= value <= largest:
            raise BadInput(
                f"model.name: {size} of {spec.name!r} must be a whole number, 1 to {largest}, "
                f"got {value!r}"
            )
    if spec.weights == "pretrained" and getattr(config, "quantization_config", None):
        raise BadInput(
            f"model.name: the weights of {spec.name!r} are quantized (quantization_config in its "
            "config.json) and cannot be trained; name the model as it was before"
        )


def _tokenizer(spec: ModelSpec, kind: type[ModelAdapter]) -> PreTrainedTokenizerBase:
    name = spec.tokenizer or spec.name
    if name.startswith(BUILTIN):
        return preset_tokenizer(kind)
    _check_directory(name, "tokenizer* or vocab*", "model.tokenizer")
    with _from(name, "model.tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **_kept_only(name))
    return tokenizer


@functools.cache
def _unreachable(name: str) -> bool:
    """Ask the hub for ``name`` once, briefly: the loaders would try for half a minute."""
    try:
        ask(lambda: HfApi().model_info(name, timeout=PATIENCE))
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


def _refusal() -> str:
    if constants.HF_HUB_OFFLINE:
        return "was not asked, for HF_HUB_OFFLINE is set"
    return "did not give it (with HF_HUB_OFFLINE=1 it is not asked)"


@contextmanager
def _from(name: str, key: str) -> Iterator[None]:
    """Have what goes wrong while ``name`` is read said as bad input of ``key``."""
    if Path(name).is_dir():
        with reading(f"{key}: the directory {name!r} cannot be read"):
            yield
        return
    try:
        with reading(f"{key}: {name!r} cannot be read"):
            yield
    except BadInput as error:
        if isinstance(error.__cause__, OSError):
            raise BadInput(
                f"{key}: {name!r} is neither a directory nor in the local cache "
                f"({constants.HF_HUB_CACHE}, which HF_HOME moves), and the model hub "
                f"{_refusal()}; wanted a hub id, a directory or builtin:<preset>"
            ) from error.__cause__
        raise
