"""A model of any type that ``transformers`` has: what no family file says, its graph tells."""

import functools
from typing import Any, ClassVar

import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.models.auto import modeling_auto as auto
from typing_extensions import override

from fedsim.models.base import ModelAdapter
from fedsim.models.graph import Anatomy
from fedsim.models.opening import Opening

FACTS = ("causal", "positional", "groups", "attention", "stack", "heads", "last_norm")
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
UNBOUND = 2048  # tokens that a model takes which tells no limit (relative positions)


class GraphAdapter(ModelAdapter):
    """Any decoder or encoder; what families state is found when its module is first built."""

    presets: ClassVar = {}
    special_tokens: ClassVar = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rates = {name: value for name, value in vars(self.config).items() if "drop" in name}
        vars(self)["dropouts"] = tuple(
            name
            for name, value in rates.items()
            if isinstance(value, int | float) and type(value) is not bool
            if "layerdrop" not in name  # a share of blocks that are left out
        )

    def __getattr__(self, name: str) -> Any:
        if name in FACTS:
            return self.anatomy.facts(self.spec.task)[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    @property
    @override
    def layers(self) -> int:
        return len(self.anatomy.blocks)

    @property
    @override
    def positions(self) -> int:
        told = [value for name in POSITIONS if (value := getattr(self.config, name, None))]
        return int(told[0]) - (self.anatomy.first_position or 0) if told else UNBOUND

    @override
    def _compare(self, whole: Any, found: Anatomy) -> str:
        return "it has none"

    @override
    def _note(self) -> str:
        return ""

    @override
    def _open(self, base: Any) -> Opening:
        raise NotImplementedError

    @override
    def _cut(self, base: nn.Module, depth: int) -> nn.Module:
        raise NotImplementedError


@functools.cache
def generic(model_type: str) -> type[GraphAdapter] | None:
    """Return the adapter of what ``transformers`` calls a ``model_type``; None: it has none.

    Encoders can do classification and masked-lm, decoders classification and causal-lm. Models of
    both, an encoder and a decoder, are neither.
    """
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type]().is_encoder_decoder:
        return None
    other = "masked-lm" if model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES else "causal-lm"
    names = {
        "classification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "masked-lm": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "causal-lm": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    classes: dict[str, type[PreTrainedModel]] = {
        task: getattr(transformers, str(names[task][model_type]))
        for task in ("classification", other)
        if model_type in names[task]
    }
    if not classes:
        return None
    return type("GraphAdapter", (GraphAdapter,), {"family": model_type, "classes": classes})
