"""What is public about a model, and where an attack finds its weights."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Place = Literal["hidden", "context", "middle", "inner"]
"""What a block's weights read: its input (q, k, v), the heads' contexts (attention's output map),
the normed sum of both (the MLP's first map), the MLP's activations (its last map)."""
Task = Literal["classification", "causal-lm", "masked-lm"]
Weights = Literal["pretrained", "random"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """All that is public about the model: enough to build it again anywhere, weights aside."""

    name: str  # hub id, local directory, or builtin:<preset>
    tokenizer: str = ""  # hub id or directory; default: the model's own
    task: Task = "classification"
    weights: Weights = "pretrained"
    seed: int = 1  # of random weights, of a new head, of LoRA's A
    num_labels: int = 2  # classification only
    lora_rank: int = 0  # 0: full fine-tuning
    adapter: str = ""  # a directory with the adapters' first weights; default: peft's own
    lora_targets: tuple[str, ...] = ()  # module names, or "all-linear"; default: q, k and v
    lora_alpha: float = 0.0  # the adapters count alpha / rank times; 0: alpha = rank, so once
    lora_dropout: float = 0.0  # of what adapters read, where dropout is on
    use_rslora: bool = False  # they count alpha / sqrt(rank) times
    use_dora: bool = False  # with a magnitude that is learned beside them
    dropout: float | None = None  # in training, in place of the model's own rates
    freeze: tuple[str, ...] = ()  # groups ("embeddings", "layers.0", "head") or patterns
    response: str = ""  # causal-lm: the loss is of what follows this text alone; "": of all
    head_known: bool = True  # False: a project's own head follows the blocks, and not this one

    def as_dict(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Projection:
    """A weight whose input is a layer's hidden state."""

    name: str
    input_axis: int  # which axis of the weight is that input's
    fused: int = 1  # how many maps of equal width the weight holds side by side on the other axis

    @property
    def adapters(self) -> tuple[str, str]:
        """The names of LoRA's A (R, D) and B (K, R) beside this weight, as peft calls them."""
        base = self.name.removesuffix(".weight")
        return f"{base}.lora_A.default.weight", f"{base}.lora_B.default.weight"
