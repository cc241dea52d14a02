"""The small target of "Learning to Invert": breaching's ``transformer3``, never trained.

Source: Geiping et al., breaching, cases/models/language_models.py (``TransformerModel``): blocks of
        ``torch.nn.TransformerEncoderLayer`` (post-layer-norm, ReLU) over token embeddings times
        sqrt(D) and learned positions, a head tied to the embeddings; as Wu et al., UAI 2023,
        arXiv:2210.10880, train it: token embeddings, and with them the head, and the head's bias
        are frozen. It has no causal mask though its loss is the next token's; ``-causal`` has one.

A family without weight files: its parts are read off its module graph.
"""

import functools
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from fedsim.models.generic import GraphAdapter
from fedsim.models.presets import VOCABULARY, token


class Breaching3Config(PreTrainedConfig):
    """Sizes; the defaults are the paper's, with GPT-2's vocabulary."""

    model_type = "breaching3"

    def __init__(
        self,
        vocab_size: int = 50257,
        hidden_size: int = 96,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 8,
        intermediate_size: int = 1536,
        max_position_embeddings: int = 1024,
        causal: bool = False,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.causal = causal
        self.bos_token_id, self.eos_token_id = bos_token_id, eos_token_id
        super().__init__(**{"tie_word_embeddings": True, **others})


class Breaching3Layer(nn.Module):
    """A block as ``torch.nn.TransformerEncoderLayer`` computes it."""

    def __init__(self, config: Breaching3Config) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        bound = math.sqrt(6 / (width + 3 * width))  # Xavier's, of q, k and v as one map
        for part in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.uniform_(part.weight, -bound, bound)
        for part in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.zeros_(part.bias)

    def forward(self, states: Tensor, allowed: Tensor) -> Tensor:
        """Return the next states (B, T, D); ``allowed`` (B, 1, T, T): who sees whom."""
        maps = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (part(states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in maps)
        scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, heads, T, T)
        weights = scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)
        context = (weights @ v).transpose(1, 2).flatten(2)  # (B, T, D)
        states = self.norm1(states + self.out_proj(context))
        mlp: Tensor = self.linear2(self.linear1(states).relu())
        result: Tensor = self.norm2(states + mlp)
        return result


class Breaching3PreTrainedModel(PreTrainedModel):
    """What both parts share: weights begin as torch begins those of its own modules."""

    config_class = Breaching3Config
    base_model_prefix = "transformer"

    def _init_weights(self, module: nn.Module) -> None:
        """Leave weights as the constructors made them."""


class Breaching3Model(Breaching3PreTrainedModel):
    """The blocks over the embeddings."""

    def __init__(self, config: Breaching3Config) -> None:
        super().__init__(config)
        self.encoder = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        self.encoder.weight.requires_grad_(False)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(
            Breaching3Layer(config) for _ in range(config.num_hidden_layers)
        )
        for layer in self.layers[1:]:  # torch.nn.TransformerEncoder copies one layer
            layer.load_state_dict(self.layers[0].state_dict())
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings."""
        return self.encoder

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """Return the last states (B, T, D)."""
        words = self.encoder(input_ids) if inputs_embeds is None else inputs_embeds
        count, length = words.shape[:2]
        if position_ids is None:
            position_ids = torch.arange(length, device=words.device)[None]
        states = words * math.sqrt(self.config.hidden_size) + self.positions(position_ids)
        allowed = torch.ones(count, 1, length, length, dtype=torch.bool, device=words.device)
        if attention_mask is not None:
            allowed = allowed & attention_mask.bool()[:, None, None, :]
        if self.config.causal:
            allowed = allowed.tril()
        for layer in self.layers:
            states = layer(states, allowed)
        return BaseModelOutput(last_hidden_state=states)


class Breaching3ForCausalLM(Breaching3PreTrainedModel):
    """With the head, and the loss of the next token."""

    _tied_weights_keys = {"decoder.weight": "transformer.encoder.weight"}  # noqa: RUF012

    def __init__(self, config: Breaching3Config) -> None:
        super().__init__(config)
        self.transformer = Breaching3Model(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.decoder.requires_grad_(False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings."""
        return self.transformer.encoder

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.decoder

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **given: Any,
    ) -> CausalLMOutput:
        """Return logits (B, T, V), and the mean loss where there are labels."""
        body = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **given)
        logits = self.decoder(body.last_hidden_state)
        loss = None
        if labels is not None:  # those of -100 are left out
            loss = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            )
        return CausalLMOutput(loss=loss, logits=logits)


class Breaching3Adapter(GraphAdapter):
    """The target as its paper has it, or with a causal mask."""

    family = "breaching3"
    classes: ClassVar = {"causal-lm": Breaching3ForCausalLM}
    presets: ClassVar = {
        "breaching3": Breaching3Config,
        "breaching3-causal": functools.partial(Breaching3Config, causal=True),
        "breaching3-tiny": functools.partial(
            Breaching3Config,
            vocab_size=VOCABULARY,
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            max_position_embeddings=64,
            bos_token_id=token("<|endoftext|>"),
            eos_token_id=token("<|endoftext|>"),
        ),
    }
    special_tokens: ClassVar = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
