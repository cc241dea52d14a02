"""Train, and so send, LoRA's B alone; A stays as it was drawn.

Source:      Sun, Li, Li, Ding, "Improving LoRA in Privacy-preserving Federated Learning", ICLR
             2024, arXiv:2403.12313, sec. 4 (there to make averages and DP noise linear).
Guarantee:   none. B's gradient reads the inputs through A: with fewer distinct inputs than the rank
             they are told exactly, with more its row space is full.
Deviations:  alpha equals the rank, so the scale is 1.
"""

from dataclasses import dataclass, replace

from typing_extensions import override

from defenses.lora import LoRA
from fedsim.models import ModelSpec
from fedsim.training import TrainingSettings

DOWN = "*.lora_A.*"  # peft's name of A


@dataclass(frozen=True, kw_only=True)
class FFALoRA(LoRA):
    """Train B of adapters of ``rank`` on the modules called ``targets``, and the head."""

    @override
    def configure(
        self, model: ModelSpec, training: TrainingSettings
    ) -> tuple[ModelSpec, TrainingSettings]:
        model, training = super().configure(model, training)
        return replace(model, freeze=(*model.freeze, DOWN)), training
