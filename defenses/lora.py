"""Train, and so send, low-rank adapters in place of the weights.

Source:      Hu et al., "LoRA", ICLR 2022, arXiv:2106.09685; as a choice that is said to protect:
             "Mitigating Unintended Memorization with LoRA in Federated Learning for LLMs",
             arXiv:2502.05087 (of the final model, not of the updates).
Guarantee:   none: B's gradient reads the inputs through A, and A's reads them directly once B has
             left zero.
Deviations:  alpha equals the rank, so the scale is 1.
"""

from dataclasses import dataclass, replace

from typing_extensions import override

from defenses.base import Defense
from fedsim.errors import BadInput
from fedsim.models import ModelSpec
from fedsim.training import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class LoRA(Defense):
    """Train adapters of ``rank`` on the modules called ``targets``, and a classifier's head."""

    rank: int = 8  # > 0
    targets: tuple[str, ...] = ()  # default: the family's q, k and v

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be > 0, got {self.rank}")

    @override
    def configure(
        self, model: ModelSpec, training: TrainingSettings
    ) -> tuple[ModelSpec, TrainingSettings]:
        if model.lora_rank:
            raise BadInput(
                f"defense: the model has adapters of rank {model.lora_rank} already; set either "
                "model.lora_rank or one defense that adds them"
            )
        return replace(model, lora_rank=self.rank, lora_targets=self.targets), training
