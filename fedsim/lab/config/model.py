"""The keys of [model]; ``schema.py`` says how keys and defaults are declared."""

from pydantic import Field

from fedsim import limits
from fedsim.lab.config.fields import PathText, Section, default_of
from fedsim.models import ModelSpec, Task, Weights


class ModelSection(Section):
    """What is fine-tuned, and which of its weights."""

    name: PathText = Field(
        min_length=1,
        description="hub id, local directory, or `builtin:<preset>` (random weights, no download): "
        "`fedsim list models` names them; also a directory of peft's adapters, which says the rest",
    )
    tokenizer: PathText = default_of(
        ModelSpec, "tokenizer", "hub id or directory; empty: the model's own"
    )
    task: Task = default_of(
        ModelSpec, "task", "`causal-lm`: GPT-2 and LLaMA; `masked-lm`: BERT; `classification`: all"
    )
    weights: Weights = default_of(
        ModelSpec,
        "weights",
        "`random`: the architecture of `name` with fresh weights from the seed, as presets have",
    )
    lora_rank: int = default_of(
        ModelSpec,
        "lora_rank",
        "of LoRA's adapters (peft), which alone are trained; 0: none",
        ge=0,
        le=limits.RANK,
    )
    lora_targets: list[str] = default_of(
        ModelSpec,
        "lora_targets",
        "names of the modules to adapt, or `all-linear`; empty: q, k and v",
    )
    lora_alpha: float = default_of(
        ModelSpec, "lora_alpha", "adapters count alpha / rank times; 0: once", ge=0
    )
    lora_dropout: float = default_of(
        ModelSpec, "lora_dropout", "of what adapters read, where training.dropout is on", ge=0, lt=1
    )
    use_rslora: bool = default_of(
        ModelSpec, "use_rslora", "adapters count alpha / sqrt(rank) times"
    )
    use_dora: bool = default_of(
        ModelSpec, "use_dora", "a magnitude of each output is learned beside the adapters"
    )
    freeze: list[str] = default_of(
        ModelSpec,
        "freeze",
        "not trained: `embeddings`, `head`, `layers.0`, or patterns of parameter names",
    )
