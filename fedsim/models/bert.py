"""BERT: learned positions and token types, post-layer-norm, attention both ways.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", NAACL 2019,
        arXiv:1810.04805.
"""

from typing import ClassVar, cast

from torch import nn
from transformers import BertForMaskedLM, BertForSequenceClassification
from typing_extensions import override

from fedsim.models.base import ModelAdapter
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
    stack = "layer"

    @override
    def _reads(self) -> tuple[Projection, ...]:
        names = ("query", "key", "value")
        return tuple(Projection(f"attention.self.{one}.weight", input_axis=1) for one in names)

    @override
    def _cut(self, base: nn.Module, depth: int) -> nn.Module:
        encoder = cast(nn.Module, base.encoder)
        blocks = cast(nn.ModuleList, encoder.layer)[:depth]
        return shell(base, encoder=shell(encoder, layer=blocks), pooler=None)
