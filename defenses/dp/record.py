"""What DP-SGD's steps did in one client and round, and the wire audit that reads it."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from defenses.base import norm
from fedsim.errors import DefenseFailed
from fedsim.training import TrainingSettings
from fedsim.types import Parameters

if TYPE_CHECKING:  # opacus takes a second to import, and most runs need none of it
    from defenses.dp.per_example import Noisy

TOLERANCE = 0.02  # of the noise on the wire


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What each step of the round is to be."""

    clip: float  # C
    size: float  # B, the expected batch
    std: float  # of the noise on an entry, z C / B
    steps: int


@dataclass
class Record:
    """What the steps left behind."""

    clean: dict[str, Tensor] = field(default_factory=dict)  # summed over the steps
    squares: float = 0.0  # of the noise of every step, where what is sent does not show it
    entries: int = 0
    norms: list[Tensor] = field(default_factory=list)

    def note(self, noisy: "Noisy", training: TrainingSettings) -> None:
        """Keep what the audit needs of a step."""
        self.norms.append(noisy.norms.cpu())
        for name, clean in noisy.clean.items():
            before = self.clean.get(name)
            self.clean[name] = clean if before is None else before + clean
        if not shows_noise(training):
            gaps = {name: noisy.sent[name] - clean for name, clean in noisy.clean.items()}
            self.squares += norm(gaps) ** 2
            self.entries += sum(gap.numel() for gap in gaps.values())

    def figures(
        self, sent: Parameters, size: float, claim: Claim, training: TrainingSettings
    ) -> dict[str, float]:
        """Measure what was sent against the claim.

        Args:
            sent: what training returned.
            size: its norm.
            claim: of the round.
            training: what the steps are steps of.

        Raises:
            DefenseFailed: it is not what was claimed.
        """
        from defenses.dp.per_example import clip_factors

        norms = torch.cat(self.norms)
        if size == 0.0:
            raise DefenseFailed("dp-sgd sends nothing")
        if norm(self.clean) > len(norms) * claim.clip / claim.size * (1 + 1e-4):
            raise DefenseFailed(
                f"dp-sgd: {len(norms)} examples clipped to {claim.clip:g} sum to more"
            )
        std, entries = self._noise(sent, claim.steps, training)
        allowed = max(TOLERANCE, 5.0 / math.sqrt(2 * entries))  # five standard errors
        if abs(std - claim.std) > allowed * claim.std + 1e-7 * size:
            raise DefenseFailed(
                f"dp-sgd: the noise on the wire has a standard deviation of {std:.4g}, not the "
                f"{claim.std:.4g} of z C / B"
            )
        some = norms if len(norms) else torch.zeros(1)
        return {
            "steps": float(claim.steps),
            "noise_std": std,
            "noise_std_wanted": claim.std,
            "clip_factor": float(clip_factors(some, claim.clip).mean().item()),
            "clipped": float((some > claim.clip).float().mean().item()),
        }

    def _noise(self, sent: Parameters, steps: int, training: TrainingSettings) -> tuple[float, int]:
        """Return a step's noise, off what is sent where it tells it, and of how many entries.

        The noise is a standard deviation; steps that are seen as one sum are measured once.
        """
        if not shows_noise(training):
            return math.sqrt(self.squares / self.entries), self.entries
        scale = 1.0 if training.algorithm == "fedsgd" else -training.learning_rate
        gaps = {
            name: torch.sub(t, self.clean[name].to(t.device), alpha=scale)
            for name, t in sent.items()
        }
        entries = sum(t.numel() for t in gaps.values())
        return norm(gaps) / abs(scale) / math.sqrt(entries * steps), entries


def shows_noise(training: TrainingSettings) -> bool:
    """Say whether what is sent tells the steps' noise: it is a gradient, or plain SGD's delta.

    These are the steps' sum: what they differ by from the clean sum is the noise. Momentum and
    AdamW mix steps; then each step's own noise is measured.
    """
    plain = training.optimizer == "sgd" and not training.weight_decay
    plain = plain and not training.proximal_mu and training.learning_rate >= 1e-4
    return plain or training.algorithm == "fedsgd"
