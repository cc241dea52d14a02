"""BERT: learned positions and token types, post-layer-norm, attention both ways.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", NAACL 2019,
        arXiv:1810.04805.
"""

import functools
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification
from typing_extensions import override

from fedsim.models.base import ModelAdapter
from fedsim.models.norms import Norm
from fedsim.models.opening import Opening, affine
from fedsim.models.presets import VOCABULARY, token
from fedsim.models.spec import Projection
from fedsim.models.trunk import shell


class BertAdapter(ModelAdapter):
    """BERT of any size, and encoders that share its architecture."""

    family = "bert"
    causal = False
    positional = True
    classes: ClassVar = {
        "classification": BertForSequenceClassification,
        "masked-lm": BertForMaskedLM,
    }
    groups: ClassVar = {"embeddings": ("*embeddings.*",), "head": ("classifier.*", "cls.*")}
    attention = ("query", "key", "value")
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    stack = "layer"
    reads: ClassVar = {
        "hidden": tuple(
            Projection(f"attention.self.{part}.weight", input_axis=1)
            for part in ("query", "key", "value")
        ),
        "context": (Projection("attention.output.dense.weight", input_axis=1),),
        "middle": (Projection("intermediate.dense.weight", input_axis=1),),
        "inner": (Projection("output.dense.weight", input_axis=1),),
    }
    heads: ClassVar = {"classification": "classifier"}
    last_norm = None
    presets: ClassVar = {
        "bert-tiny": functools.partial(
            BertConfig,
            vocab_size=VOCABULARY,
            max_position_embeddings=256,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            pad_token_id=token("[PAD]"),
        )
    }
    special_tokens: ClassVar = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
    }
    template = "[CLS] $A [SEP]"

    @override
    def _cut(self, base: nn.Module, depth: int) -> nn.Module:
        encoder = cast(nn.Module, base.encoder)
        blocks = cast(nn.ModuleList, encoder.layer)[:depth]
        return shell(base, encoder=shell(encoder, layer=blocks), pooler=None)

    @override
    def _open(self, base: Any) -> Opening:
        embeddings, block = base.embeddings, base.encoder.layer[0]
        attention, width = block.attention.self, self.width
        maps = (attention.query, attention.key, attention.value)

        def heads(vectors: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            size = (attention.num_attention_heads, attention.attention_head_size)
            q, k, v = (part(vectors).unflatten(-1, size) for part in maps)
            return q, k, v

        words = embeddings.word_embeddings.weight.detach()
        kind = embeddings.token_type_embeddings.weight.detach()[0]  # one text: type 0 everywhere
        output, bias = affine(block.attention.output.dense, width, words)
        return Opening(
            words=words,
            places=embeddings.position_embeddings.weight.detach() + kind,
            norm=Norm.of(embeddings.LayerNorm),
            heads=heads,
            scale=attention.scaling,
            output=output,
            output_bias=bias,
            middle=Norm.of(block.attention.output.LayerNorm),
            normed=True,
        )
