"""Train, and so send, less of the model.

Source:      as a defense: Gupta et al., "Recovering Private Text in Federated Learning of Language
             Models", NeurIPS 2022, arXiv:2205.08514, sec. 6: frozen word embeddings, whose gradient
             tells which words there were.
Guarantee:   none. Frozen embeddings keep block 0's inputs constant, which helps a span attack.
Deviations:  none.
"""

from dataclasses import dataclass, replace

from typing_extensions import override

from defenses.base import Defense
from fedsim.models import ModelSpec
from fedsim.training import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Freeze(Defense):
    """Leave ``groups`` as they are: ``embeddings``, ``head``, ``layers.0``, or name patterns."""

    groups: tuple[str, ...] = ("embeddings",)

    def __post_init__(self) -> None:
        if not self.groups or not all(self.groups):
            raise ValueError(f"groups must name what to freeze, got {list(self.groups)}")

    @override
    def configure(
        self, model: ModelSpec, training: TrainingSettings
    ) -> tuple[ModelSpec, TrainingSettings]:
        more = tuple(group for group in self.groups if group not in model.freeze)
        return replace(model, freeze=(*model.freeze, *more)), training
