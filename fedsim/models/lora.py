"""LoRA by peft: only adapters and the new head train, so only they travel."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedsim.errors import BadInput, reading, unknown
from fedsim.models.spec import ModelSpec

TASK_TYPES = {
    "classification": "SEQ_CLS",
    "causal-lm": "CAUSAL_LM",
}  # peft's; it unfreezes the head
LINEAR = (nn.Linear, Conv1D)
HEADS = ("classifier", "score")  # what peft calls a classifier's head, and trains whole
ALL = "all-linear"  # peft's word for every linear map but the head


def add_lora(module: PreTrainedModel, spec: ModelSpec, targets: Sequence[str]) -> PreTrainedModel:
    """Return ``module`` with the adapters of ``spec``; on ``targets`` where it names none.

    Source: Hu et al., "LoRA", ICLR 2022, arXiv:2106.09685; alpha = rank where none is said, so the
    scale is 1. DoRA: Liu et al., ICML 2024, arXiv:2402.09353; rsLoRA: Kalajdzievski, 2023,
    arXiv:2312.03732.
    """
    import peft  # here, because it takes half a second, and few models have adapters

    targets = spec.lora_targets or targets
    whole = HEADS if spec.task == "classification" else ()
    hits = _hits(module, targets, whole)
    _check_rank(spec.lora_rank, [part for parts in hits.values() for part in parts])
    config = peft.LoraConfig(
        r=spec.lora_rank,
        lora_alpha=cast(int, spec.lora_alpha or spec.lora_rank),
        lora_dropout=spec.lora_dropout,
        use_rslora=spec.use_rslora,
        use_dora=spec.use_dora,
        target_modules=ALL if ALL in targets else list(targets),
        task_type=TASK_TYPES.get(spec.task),
        fan_in_fan_out=any(isinstance(part, Conv1D) for parts in hits.values() for part in parts),
    )
    with reading("model.lora_targets"):
        adapted = peft.get_peft_model(module, config)
    return cast(PreTrainedModel, adapted)


def _hits(
    module: nn.Module, targets: Sequence[str], whole: Sequence[str]
) -> Mapping[str, Sequence[nn.Module]]:
    """Return the modules that ``targets`` name, in every layer, as peft takes them.

    Raises:
        BadInput: a target is not there, no linear map, or trained ``whole``.
    """
    named = defaultdict[str, list[nn.Module]](list)  # by its last name
    for name, part in module.named_modules():
        named[name.rsplit(".", 1)[-1]].append(part)
    linear = {
        name: parts
        for name, parts in named.items()
        if name not in whole and all(isinstance(part, LINEAR) for part in parts)
    }
    if ALL in targets:
        if len(targets) > 1:
            raise BadInput(f"model.lora_targets: {ALL!r} stands alone, got {list(targets)}")
        return linear
    hits = {
        target: [part for name, part in module.named_modules() if f".{name}".endswith(f".{target}")]
        for target in targets
    }
    for name, parts in hits.items():
        _check_target(name, parts, sorted(linear), whole)
    return hits


def _check_target(
    name: str, parts: Sequence[nn.Module], linear: Sequence[str], whole: Sequence[str]
) -> None:
    if not parts:
        raise BadInput(f"model.lora_targets: {unknown('module', name, [*linear, ALL])}")
    if name in whole:
        raise BadInput(
            f"model.lora_targets: {name!r} is the head, which is trained whole beside the "
            f"adapters; name some of {', '.join(linear)}"
        )
    if wrong := sorted({type(part).__name__ for part in parts if not isinstance(part, LINEAR)}):
        raise BadInput(
            f"model.lora_targets: must be linear maps ({', '.join(linear)}), got {name} "
            f"({' and '.join(wrong)})"
        )


def _check_rank(rank: int, parts: Sequence[nn.Module]) -> None:
    """Raise BadInput where an adapter would be no low-rank one, and take memory without end."""
    if rank < 0:
        raise BadInput(f"model.lora_rank must be >= 0, got {rank}")
    widths = [part.weight.shape[0] for part in parts if isinstance(part, Conv1D)]
    widths += [part.in_features for part in parts if isinstance(part, nn.Linear)]
    if widths and rank > min(widths):
        raise BadInput(
            f"model.lora_rank, or a LoRA defense's rank, must be at most {min(widths)}, the inputs "
            f"of its narrowest target, got {rank}"
        )
