"""A model's weights from its checkpoint: nothing of the body stays random, nor unsaid."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from fedsim.errors import BadInput, reading
from fedsim.finite import finite
from fedsim.models.stored import check_stored


def read_checkpoint(
    kind: type[PreTrainedModel], name: str, config: PreTrainedConfig, **how: Any
) -> tuple[PreTrainedModel, list[str]]:
    """Return the model with the weights that ``name`` holds, and what a reader must know of them.

    A head may be new: that of another task, or of as many labels as the data has. Its weights are
    then drawn from torch's own state, and that is said.

    Raises:
        BadInput: there are none, they cannot be read, are no floats or held twice, or the body
            lacks some; one line.
    """
    with reading(f"model.name: no weights in {name!r}"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Casting complex values")  # they are refused below
        module, info = cast(Any, kind).from_pretrained(
            name, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **how
        )
    check_stored(module, name)
    shapes = {key: (tuple(got), tuple(wanted)) for key, got, wanted in info["mismatched_keys"]}
    missing, extra = set(info["missing_keys"]), sorted(info["unexpected_keys"])
    order = [key for key in module.state_dict() if key in missing or key in shapes]
    body = [key for key in order if _of_body(module, key)]
    if unfit := [key for key in body if key in shapes]:
        got, wanted = shapes[unfit[0]]
        raise BadInput(
            f"model.name: the weights of {name!r} are not of the sizes that its config.json tells: "
            f"{unfit[0]!r} is {got}, not {wanted}{_more(unfit)}"
        )
    if body:
        raise BadInput(
            f"model.name: the weights of {name!r} lack {len(body)} of the model's "
            f"{len(module.state_dict())} tensors, first {body[0]!r}{_wrapper(body, extra)}"
        )
    return module, _notes(module, name, order, shapes, extra)


def _notes(
    module: PreTrainedModel,
    name: str,
    new: Sequence[str],
    shapes: Mapping[str, tuple[Sequence[int], Sequence[int]]],
    extra: Sequence[str],
) -> list[str]:
    """Say which weights of the head are new, and which of the checkpoint's body were left out."""
    notes = []
    if new:
        why = f"{name!r} has no {new[0]!r}"
        if new[0] in shapes:
            got, wanted = shapes[new[0]]
            why = f"{new[0]!r} of {name!r} is {got}, and {wanted} is wanted"
        notes.append(f"the head is new, drawn from the seed: {why}{_more(new)}.")
    body = [key for key in extra if _of_body(module, key)]
    if body:
        notes.append(
            f"the model has no place for {len(body)} weights of {name!r}, which were left out, "
            f"first {body[0]!r}."
        )
    return notes


def _of_body(module: PreTrainedModel, key: str) -> bool:
    """Return whether a weight is the body's, which no task brings anew (as it does a pooler)."""
    return key.startswith(f"{module.base_model_prefix}.") and ".pooler." not in key


def _more(keys: Sequence[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def _wrapper(missing: Sequence[str], extra: Iterable[str]) -> str:
    """Say what the checkpoint's names begin with, where that is why the model's are not there."""
    begins = {key[: -len(name)] for key in extra for name in missing[:1] if key.endswith(name)}
    if not begins:
        return ""
    return f"; its names begin with {min(begins)!r}: save the model itself, without that wrapper"


def check_finite(module: nn.Module, name: str) -> None:
    """Raise BadInput where a weight of the model called ``name`` is no number."""
    for key, tensor in module.state_dict().items():
        if not finite(tensor):
            wrong = int((~tensor.isfinite()).sum())
            raise BadInput(
                f"model.name: {key!r} of {name!r} holds NaN or infinity, {wrong} of "
                f"{tensor.numel()} values"
            )
