"""LLaMA: rotary positions, RMSNorm, grouped-query attention, separate q, k, v (stored out x in).

Source: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", arXiv:2302.13971.
"""

import functools
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from typing_extensions import override

from fedsim.models.base import ModelAdapter
from fedsim.models.norms import Norm
from fedsim.models.opening import Opening, affine
from fedsim.models.presets import VOCABULARY, token
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
    dropouts = ("attention_dropout",)
    stack = "layers"
    reads: ClassVar = {
        "hidden": tuple(Projection(f"self_attn.{x}_proj.weight", input_axis=1) for x in "qkv"),
        "context": (Projection("self_attn.o_proj.weight", input_axis=1),),
        "middle": tuple(Projection(f"mlp.{x}_proj.weight", input_axis=1) for x in ("gate", "up")),
        "inner": (Projection("mlp.down_proj.weight", input_axis=1),),
    }
    heads: ClassVar = {"classification": "score", "causal-lm": "lm_head"}
    last_norm = "norm"
    presets: ClassVar = {
        "llama-tiny": functools.partial(
            LlamaConfig,
            vocab_size=VOCABULARY,
            max_position_embeddings=256,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=3,
            bos_token_id=token("<s>"),
            eos_token_id=token("</s>"),
        )
    }
    special_tokens: ClassVar = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    template = "<s> $A"

    @override
    def _cut(self, base: nn.Module, depth: int) -> nn.Module:
        blocks = cast(nn.ModuleList, base.layers)
        norm = cast(nn.Module, blocks[depth].input_layernorm)
        return shell(base, layers=blocks[:depth], norm=norm)

    @override
    def _open(self, base: Any) -> Opening:
        block = base.layers[0]
        attention = block.self_attn
        maps = (attention.q_proj, attention.k_proj, attention.v_proj)

        def heads(vectors: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = (part(vectors).unflatten(-1, (-1, attention.head_dim)) for part in maps)
            where = positions[None].to(vectors.device)
            cos, sin = base.rotary_emb(vectors, where)  # (1, N, E) each
            turned = apply_rotary_pos_emb(q, k, cos[0], sin[0], unsqueeze_dim=1)
            return turned[0], turned[1], v

        words = base.embed_tokens.weight.detach()
        width = self.config.num_attention_heads * attention.head_dim
        output, bias = affine(attention.o_proj, width, words)
        return Opening(
            words=words,
            places=torch.zeros_like(words[:1]),
            norm=Norm.of(block.input_layernorm),
            heads=heads,
            scale=attention.scaling,
            output=output,
            output_bias=bias,
            middle=Norm.of(block.post_attention_layernorm),
            normed=False,
        )
