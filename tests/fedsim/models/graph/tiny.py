"""Models of types that no family file has: tiny, random, written to a folder."""

from pathlib import Path
from typing import Any

import transformers as hf

from fedsim.models import ModelAdapter, ModelSpec, family, load_adapter
from fedsim.models.presets import VOCABULARY, preset_tokenizer

WIDE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
MLP: dict[str, Any] = {**WIDE, "intermediate_size": 256}
CONFIGS: dict[str, hf.PreTrainedConfig] = {
    "qwen3": hf.Qwen3Config(**MLP, num_key_value_heads=2, head_dim=32),
    "mistral": hf.MistralConfig(**MLP, num_key_value_heads=2, sliding_window=16),
    "gemma2": hf.Gemma2Config(**MLP, num_key_value_heads=2, head_dim=32),
    "mixtral": hf.MixtralConfig(**MLP, num_key_value_heads=2, num_local_experts=4),
    "phi": hf.PhiConfig(**MLP),
    "opt": hf.OPTConfig(**WIDE, ffn_dim=256, word_embed_proj_dim=128),
    "falcon": hf.FalconConfig(**WIDE),
    "bloom": hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=128, n_layer=3, n_head=4),
    "roberta": hf.RobertaConfig(**MLP, pad_token_id=4),
    "electra": hf.ElectraConfig(**MLP, embedding_size=64),
    "albert": hf.AlbertConfig(**MLP, embedding_size=64, pad_token_id=4),
    "modernbert": hf.ModernBertConfig(
        **MLP, pad_token_id=4, cls_token_id=5, sep_token_id=6, bos_token_id=5, eos_token_id=6
    ),
    "deberta-v2": hf.DebertaV2Config(
        **MLP, relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False
    ),
}


def tiny(folder: Path, kind: str, **fields: Any) -> ModelAdapter:
    """Return the adapter of a model of a type, with random weights and the presets' tokenizer."""
    CONFIGS[kind].save_pretrained(folder)
    masked = kind in ("roberta", "electra", "albert", "modernbert", "deberta-v2")
    preset_tokenizer(family("bert" if masked else "llama")).save_pretrained(folder)
    return load_adapter(ModelSpec(name=str(folder), weights="random", **fields))
