"""GPT-2: learned positions, pre-layer-norm, q, k and v fused in one Conv1D (stored in x out).

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
"""

from typing import ClassVar, cast

from torch import nn
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel
from typing_extensions import override

from fedsim.models.base import ModelAdapter
from fedsim.models.spec import Projection
from fedsim.models.trunk import shell


class GPT2Adapter(ModelAdapter):
    """GPT-2 of any size."""

    family = "gpt2"
    causal = True
    positional = True
    classes: ClassVar = {
        "classification": GPT2ForSequenceClassification,
        "causal-lm": GPT2LMHeadModel,
    }
    groups: ClassVar = {"embeddings": ("*wte.*", "*wpe.*"), "head": ("*score.*",)}
    attention = ("c_attn",)
    stack = "h"

    @override
    def _reads(self) -> tuple[Projection, ...]:
        return (Projection("attn.c_attn.weight", input_axis=0, fused=3),)

    @override
    def _cut(self, base: nn.Module, depth: int) -> nn.Module:
        blocks = cast(nn.ModuleList, base.h)
        return shell(base, h=blocks[:depth], ln_f=cast(nn.Module, blocks[depth].ln_1))
