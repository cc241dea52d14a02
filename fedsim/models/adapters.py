"""A directory that peft saved adapters in: which model they adapt, and how."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from fedsim import limits
from fedsim.errors import BadInput, reading
from fedsim.files import check_regular, read_json
from fedsim.models.lora import HEADS
from fedsim.models.spec import ModelSpec, Task
from fedsim.records import FileRecord, checked_record

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TASKS: dict[str | None, Task] = {
    "SEQ_CLS": "classification",
    "CAUSAL_LM": "causal-lm",
    None: "masked-lm",
}
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layers_to_transform": (None,),
    "layer_replication": (None,),
    "exclude_modules": (None, []),
    "modules_to_save": (None, [], [*HEADS], [*reversed(HEADS)]),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
    "lora_bias": (False,),
    "use_qalora": (False,),
    "init_lora_weights": (True, False),  # others change the weights beneath, too
}
"""What fedsim builds, of what peft can; an absent key is as peft has it."""


class AdapterConfig(FileRecord):
    """What adapter_config.json says, as far as it counts here."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=False)
    base_model_name_or_path: str
    r: int = Field(8, ge=1, le=limits.RANK)
    lora_alpha: float = Field(8, gt=0)
    lora_dropout: float = Field(0, ge=0, lt=1)
    target_modules: list[str] | str
    task_type: str | None = None
    use_rslora: bool = False
    use_dora: bool = False


def has_adapter(name: str) -> bool:
    """Return whether ``name`` is a directory that holds an adapter."""
    return (Path(name) / CONFIG).is_file()


def adapted(spec: ModelSpec) -> ModelSpec:
    """Return ``spec`` with what its adapter's directory says, where its name is one.

    Raises:
        BadInput: the adapter is none that can be built, or is not as ``spec`` says.
    """
    if not has_adapter(spec.name):
        return spec
    told, plain = read_adapter(Path(spec.name)), ModelSpec(name="")
    if spec.task != told["task"]:
        raise BadInput(
            f"model.task: the adapters of {spec.name!r} are those of {told['task']}, got "
            f"{spec.task}; add model.task={told['task']}"
        )
    for key, value in told.items():
        given = getattr(spec, key)
        if key not in ("name", "task") and given not in (getattr(plain, key), value):
            raise BadInput(
                f"model.{key}: {spec.name!r} has adapters with {key} {value!r}, got {given!r}"
            )
    return replace(spec, **told)


def read_adapter(directory: Path) -> dict[str, Any]:
    """Return the fields of a ModelSpec that an adapter's directory tells.

    Raises:
        BadInput: it is of a kind that fedsim does not build, or its file says no such thing.
    """
    path = directory / CONFIG
    with reading(f"model.name: {str(path)!r} cannot be read"):
        check_regular(path)
        tree = read_json(path)
    _check_plain(path, tree)
    config = checked_record(str(path), tree, AdapterConfig)
    targets = config.target_modules
    if config.task_type not in TASKS:
        raise BadInput(
            f"model.name: {str(path)!r}: task_type must be SEQ_CLS, CAUSAL_LM or null, "
            f"got {config.task_type!r}"
        )
    return {
        "name": _base(directory, config.base_model_name_or_path),
        "adapter": str(directory),
        "task": TASKS[config.task_type],
        "lora_rank": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "lora_targets": (targets,) if isinstance(targets, str) else tuple(sorted(targets)),
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }


def _check_plain(path: Path, tree: Any) -> None:
    given: Mapping[str, Any] = tree if isinstance(tree, dict) else {}
    for key, allowed in PLAIN.items():
        if key in given and given[key] not in allowed:
            wanted = " or ".join(map(repr, allowed))
            raise BadInput(f"model.name: {str(path)!r}: {key} must be {wanted}, got {given[key]!r}")


def _base(directory: Path, name: str) -> str:
    """Return the model's name; a path is meant from here, or from the adapter's directory."""
    beside = directory / name
    return str(beside) if not Path(name).exists() and beside.is_dir() else name


def load_weights(module: PreTrainedModel, directory: Path) -> None:
    """Put the weights of an adapter's directory into the adapters of ``module``.

    Raises:
        BadInput: they are not there, or of another model.
    """
    import peft

    path = directory / WEIGHTS
    try:
        check_regular(path)
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"model.name: {str(path)!r} cannot be read: {error}") from error
    with reading(f"model.name: {str(path)!r} does not fit the model"):
        result = peft.set_peft_model_state_dict(module, tensors)
    lost = [name for name in result.missing_keys if "lora_" in name] + result.unexpected_keys
    if lost:
        raise BadInput(f"model.name: {str(path)!r} does not fit the model, first {lost[0]!r}")
