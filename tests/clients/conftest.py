"""Models small enough for naive loops, in float64."""

from typing import Any

from transformers import BertConfig, GPT2Config

from fedsim.models import ModelAdapter, ModelSpec
from fedsim.models.bert import BertAdapter
from fedsim.models.gpt2 import GPT2Adapter
from fedsim.models.presets import VOCABULARY, preset_tokenizer


def small(task: Any = "classification", **spec: Any) -> ModelAdapter:
    """A GPT-2 (a BERT for masked-lm) of two blocks, whose workspace is in float64."""
    made = ModelSpec(name="builtin:gpt2-tiny", weights="random", task=task, num_labels=3, **spec)
    sizes = {"vocab_size": VOCABULARY, "pad_token_id": 0}
    adapter: ModelAdapter
    if task == "masked-lm":
        bert = BertConfig(
            hidden_size=20,
            intermediate_size=36,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=29,
            **sizes,
        )
        adapter = BertAdapter(made, bert, preset_tokenizer("bert"))
    else:
        gpt2 = GPT2Config(n_embd=20, n_layer=2, n_head=2, n_positions=29, **sizes)
        adapter = GPT2Adapter(made, gpt2, preset_tokenizer("gpt2"))
    adapter.module.double()
    return adapter
