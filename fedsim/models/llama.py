"""LLaMA: rotary positions, RMSNorm, grouped-query attention, separate q, k, v (stored out x in).

Source: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", arXiv:2302.13971.
"""

from typing import ClassVar, cast

from torch import nn
from transformers import LlamaForCausalLM, LlamaForSequenceClassification
from typing_extensions import override

from fedsim.models.base import ModelAdapter
from fedsim.models.spec import Projection
from fedsim.models.trunk import shell


class LlamaAdapter(ModelAdapter):
    """LLaMA 1 to 3 and what shares their architecture."""

    family = "llama"
    causal = True
    positional = False
    classes: ClassVar = {
        "classification": LlamaForSequenceClassification,
        "causal-lm": LlamaForCausalLM,
    }
    groups: ClassVar = {"embeddings": ("*embed_tokens.*",), "head": ("*score.*", "lm_head.*")}
    attention = ("q_proj", "k_proj", "v_proj")
    stack = "layers"

    @override
    def _reads(self) -> tuple[Projection, ...]:
        return tuple(Projection(f"self_attn.{x}_proj.weight", input_axis=1) for x in "qkv")

    @override
    def _cut(self, base: nn.Module, depth: int) -> nn.Module:
        blocks = cast(nn.ModuleList, base.layers)
        norm = cast(nn.Module, blocks[depth].input_layernorm)
        return shell(base, layers=blocks[:depth], norm=norm)
