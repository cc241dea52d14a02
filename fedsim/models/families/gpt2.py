"""GPT-2: learned positions, pre-layer-norm, q, k and v fused in one Conv1D (stored in x out).

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
"""

import functools
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
from typing_extensions import override

from fedsim.models.base import ModelAdapter
from fedsim.models.norms import Norm
from fedsim.models.opening import Opening, affine
from fedsim.models.presets import VOCABULARY, token
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
    dropouts = ("embd_pdrop", "resid_pdrop", "attn_pdrop")
    stack = "h"
    reads: ClassVar = {
        "hidden": (Projection("attn.c_attn.weight", input_axis=0, fused=3),),
        "context": (Projection("attn.c_proj.weight", input_axis=0),),
        "middle": (Projection("mlp.c_fc.weight", input_axis=0),),
        "inner": (Projection("mlp.c_proj.weight", input_axis=0),),
    }
    heads: ClassVar = {"classification": "score", "causal-lm": "lm_head"}
    last_norm = "ln_f"
    presets: ClassVar = {
        "gpt2": GPT2Config,  # 12 layers, d = 768, 50,257 tokens: transformers' defaults
        "gpt2-tiny": functools.partial(
            GPT2Config,
            vocab_size=VOCABULARY,
            n_positions=256,
            n_embd=192,
            n_layer=4,
            n_head=6,
            bos_token_id=token("<|endoftext|>"),
            eos_token_id=token("<|endoftext|>"),
        ),
    }
    special_tokens: ClassVar = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}

    @override
    def _cut(self, base: nn.Module, depth: int) -> nn.Module:
        blocks = cast(nn.ModuleList, base.h)
        return shell(base, h=blocks[:depth], ln_f=cast(nn.Module, blocks[depth].ln_1))

    @override
    def _open(self, base: Any) -> Opening:
        block = base.h[0]
        attention, width = block.attn, self.width

        def heads(vectors: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            parts = attention.c_attn(vectors).split(width, dim=-1)
            q, k, v = (
                part.unflatten(-1, (attention.num_heads, attention.head_dim)) for part in parts
            )
            return q, k, v

        output, bias = affine(attention.c_proj, width, base.wte.weight)
        return Opening(
            words=base.wte.weight.detach(),
            places=base.wpe.weight.detach(),
            norm=Norm.of(block.ln_1),
            heads=heads,
            scale=attention.scaling,
            output=output,
            output_bias=bias,
            middle=Norm.of(block.ln_2),
            normed=False,
        )
