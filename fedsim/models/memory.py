"""From a model in memory to an adapter."""

from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fedsim.errors import BadInput
from fedsim.models.base import ModelAdapter
from fedsim.models.families import family
from fedsim.models.spec import ModelSpec, Task
from fedsim.models.tokenizing import check_tokenizer


def adapter_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ModelAdapter:
    """Return the adapter of a model that is in memory; it works on a copy, in float32.

    The copy is made when it is first needed, so weights that are frozen must stay as they are.

    Args:
        model: of one of the families, or such a one within peft's LoRA.
        tokenizer: the model's own.

    Raises:
        BadInput: the family, the head or the tokenizer does not fit; one line says why.
    """
    adapters = dict(getattr(model, "peft_config", {}))
    for name, config in adapters.items():
        if name != "default" or type(config).__name__ != "LoraConfig":
            raise BadInput(
                f"model: of peft wanted one LoRA called 'default', got {name!r}, "
                f"{type(config).__name__}"
            )
    lora = adapters.get("default")
    whole = cast(Any, model).get_base_model() if lora else model
    kind = str(getattr(getattr(whole, "config", None), "model_type", type(whole).__name__))
    adapter = family(kind)
    tasks = [task for task, head in adapter.classes.items() if isinstance(whole, head)]
    if not tasks:
        wanted = " or ".join(sorted(head.__name__ for head in adapter.classes.values()))
        raise BadInput(f"model: wanted {wanted}, got {type(whole).__name__}")
    kind = whole.config.problem_type or "single_label_classification"
    if tasks[0] == "classification" and (
        kind != "single_label_classification" or int(whole.config.num_labels or 0) < 2
    ):  # transformers takes the loss from these two
        raise BadInput(
            "model: wanted a classifier with two labels or more, of which each text has one; got "
            f"num_labels {whole.config.num_labels}, problem_type {kind!r}"
        )
    check_tokenizer(tokenizer, tasks[0], int(whole.config.vocab_size), "tokenizer", "the model")
    spec = ModelSpec(
        name=whole.config.name_or_path or type(whole).__name__,
        task=cast(Task, tasks[0]),
        num_labels=int(whole.config.num_labels or 2),
        lora_rank=lora.r if lora else 0,
    )
    return adapter(spec, whole.config, tokenizer, origin=model)
