"""Train with dropout: a random part of each activation is zero.

Source:      as a defense against gradient inversion: Feng et al., "GRAB", CCS 2024,
             arXiv:2507.21198, which breaks it by optimising the masks as well.
Guarantee:   none.
Deviations:  none.
"""

from dataclasses import dataclass, replace

from typing_extensions import override

from defenses.base import Defense
from fedsim.models import ModelSpec
from fedsim.training import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Dropout(Defense):
    """Drop activations at ``rate``, wherever the model's own family can."""

    rate: float = 0.1  # in (0, 1)

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"rate must be in (0, 1), got {self.rate}")

    @override
    def configure(
        self, model: ModelSpec, training: TrainingSettings
    ) -> tuple[ModelSpec, TrainingSettings]:
        return replace(model, dropout=self.rate), replace(training, dropout=True)
