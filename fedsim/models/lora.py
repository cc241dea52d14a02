"""LoRA by peft: only adapters and the new head train, so only they travel."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedsim.errors import BadInput, reading, unknown

TASK_TYPES = {
    "classification": "SEQ_CLS",
    "causal-lm": "CAUSAL_LM",
}  # peft's; it unfreezes the head
LINEAR = (nn.Linear, Conv1D)
HEADS = ("classifier", "score")  # what peft calls a classifier's head, and trains whole


def add_lora(
    module: PreTrainedModel, rank: int, targets: Sequence[str], task: str
) -> PreTrainedModel:
    """Return ``module`` with adapters of ``rank`` on the linear maps named in ``targets``.

    Source: Hu et al., "LoRA", ICLR 2022, arXiv:2106.09685; alpha = rank, so the scale is 1.
    """
    import peft  # here, because it takes half a second, and few models have adapters

    if rank < 0:
        raise BadInput(f"model.lora_rank must be >= 0, got {rank}")
    hits = defaultdict[str, list[nn.Module]](list)  # by its last name, in every layer
    for name, part in module.named_modules():
        hits[_last(name)].append(part)
    whole = HEADS if task == "classification" else ()
    _check_targets(targets, hits, whole)
    _check_rank(rank, [part for name, part in module.named_modules() if _last(name) in targets])
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(targets),
        task_type=TASK_TYPES.get(task),
        fan_in_fan_out=any(isinstance(part, Conv1D) for name in targets for part in hits[name]),
    )
    with reading("model.lora_targets"):
        adapted = peft.get_peft_model(module, config)
    return cast(PreTrainedModel, adapted)


def _check_targets(
    targets: Sequence[str], hits: Mapping[str, Sequence[nn.Module]], whole: Sequence[str]
) -> None:
    """Raise BadInput where a target is not there, no linear map, or trained ``whole``."""
    linear = sorted(
        name
        for name, parts in hits.items()
        if name not in whole and all(isinstance(part, LINEAR) for part in parts)
    )
    for name in targets:
        if name not in hits:
            raise BadInput(f"model.lora_targets: {unknown('module', name, linear)}")
        if name in whole:
            raise BadInput(
                f"model.lora_targets: {name!r} is the head, which is trained whole beside the "
                f"adapters; name some of {', '.join(linear)}"
            )
        if name not in linear:
            kinds = " and ".join(sorted({type(part).__name__ for part in hits[name]}))
            raise BadInput(
                f"model.lora_targets: must be linear maps ({', '.join(linear)}), got {name} "
                f"({kinds})"
            )


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _check_rank(rank: int, parts: Sequence[nn.Module]) -> None:
    """Raise BadInput where an adapter would be no low-rank one, and take memory without end."""
    widths = [part.weight.shape[0] for part in parts if isinstance(part, Conv1D)]
    widths += [part.in_features for part in parts if isinstance(part, nn.Linear)]
    if widths and rank > min(widths):
        raise BadInput(
            f"model.lora_rank, or a LoRA defense's rank, must be at most {min(widths)}, the inputs "
            f"of its narrowest target, got {rank}"
        )
