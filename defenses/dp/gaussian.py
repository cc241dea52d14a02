"""Clip and noise the whole update: local differential privacy, one client the unit.

Source:      the Gaussian mechanism, exactly: Balle & Wang, ICML 2018, arXiv:1805.06530, theorem 8;
             on a client's update: Geyer et al., arXiv:1712.07557, with the noise on the client.
Guarantee:   (epsilon, delta) for all that one client holds, whatever it is, against the server. A
             clipped update can turn into its opposite, so what is noised differs by up to 2 C: a
             round is a Gaussian mechanism with mu = 2 / z, not the 1 / z of one that adds or leaves
             out. That a client answers, and how many examples it says it has, is public.
Deviations:  none; Flower's LocalDpMod leaves the sensitivity to its user, and composes no rounds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from typing_extensions import override

from defenses.base import Defense, Guarantee, Here, Memory, Private, Setting, norm
from defenses.dp.accounting import LEAST, gaussian
from defenses.dp.noise import normal
from defenses.encoding import Encoding, plain
from fedsim.effects import Clips, Effect, Noises
from fedsim.errors import BadInput, DefenseFailed
from fedsim.types import Parameters

TOLERANCE = 0.02  # of the noise on the wire


@dataclass(frozen=True, kw_only=True)
class Gaussian(Private):
    """Clip the update to ``clip`` in L2, add noise of ``noise_multiplier`` x ``clip``."""

    unit: ClassVar = "client"

    noise_multiplier: float = 1.0  # z >= 0
    clip: float = 1.0  # C, of the update over all parameters
    delta: float = 1e-5  # below 1 / the number of clients

    def __post_init__(self) -> None:
        if not 0.0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier must be >= 0, got {self.noise_multiplier}")
        if not 0.0 < self.clip < math.inf:
            raise ValueError(f"clip must be > 0, got {self.clip}")
        if not 0.0 < self.delta < 1.0:
            raise ValueError(f"delta must be in (0, 1), got {self.delta}")

    @override
    def effects(self) -> tuple[Effect, ...]:
        return Clips(norm=self.clip), Noises(multiplier=self.noise_multiplier)

    @override
    def check(self, setting: Setting) -> None:
        if self.delta >= 1.0 / len(setting.held):
            raise BadInput(
                f"defense gaussian: delta must be below 1 / {len(setting.held)} clients, got "
                f"{self.delta:g}: it would allow to publish one of them"
            )

    @override
    def begin(self, here: Here) -> Defense:
        values = {setting.name: getattr(self, setting.name) for setting in fields(Gaussian)}
        return _GaussianRound(**values, rounds=here.memory.values.get("rounds", 0) + 1)

    @override
    def protect(self, tensors: Parameters, generator: torch.Generator) -> Parameters:
        factor, std = self._factor(tensors), self.noise_multiplier * self.clip
        sent = {}
        for name, tensor in tensors.items():
            noise = normal(tensor.shape, generator)  # on the CPU
            sent[name] = (factor * tensor.to("cpu", torch.float32) + std * noise).to(tensor.dtype)
        return sent

    def _factor(self, tensors: Parameters) -> float:
        return min(1.0, self.clip / max(norm(tensors), 1e-30))

    @override
    def audit(self, clean: Parameters, sent: Parameters) -> dict[str, float]:
        figures, factor = super().audit(clean, sent), self._factor(clean)
        gaps = {name: sent[name].float() - factor * t.float().cpu() for name, t in clean.items()}
        entries = sum(t.numel() for t in gaps.values())
        std, wanted = norm(gaps) / math.sqrt(entries), self.noise_multiplier * self.clip
        allowed = max(TOLERANCE, 5.0 / math.sqrt(2 * entries))  # five standard errors
        if abs(std - wanted) > allowed * wanted + 1e-6 * self.clip:
            raise DefenseFailed(
                f"gaussian: the noise on the wire has a standard deviation of {std:.4g}, not the "
                f"{wanted:.4g} of z C"
            )
        return figures | {"noise_std": std, "noise_std_wanted": wanted, "clip_factor": factor}

    @override
    def encoded(self, sent: Parameters, before: Encoding) -> Encoding:
        return plain(sent)  # noise is on every entry, whatever was spared before

    @override
    def report(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        return {}  # the loss is of the raw examples

    @override
    def distance(self) -> float:
        return 2.0 / self.noise_multiplier if self.noise_multiplier >= LEAST else math.inf

    @override
    def nats(self) -> float:
        return self.distance() ** 2 / 8.0  # of variance C^2 at most, where two differ by 2 C

    @override
    def epsilon_at(self, memories: Sequence[Memory], distance: float) -> float:
        return gaussian(math.sqrt(_rounds(memories)) * distance, self.delta)

    @override
    def spent(self, memories: Sequence[Memory]) -> Guarantee | None:
        rounds = _rounds(memories)
        if not rounds or math.isinf(self.distance()):
            return None
        return Guarantee(
            epsilon=self.epsilon_at(memories, self.distance()),
            delta=self.delta,
            unit="client",
            adjacency="replaced: all that one client holds, by anything",
            accountant="gaussian, exact",
            sampling="none",
            composition=f"{rounds} rounds of the worst client",
        )


def _rounds(memories: Sequence[Memory]) -> int:
    """Return the most rounds that any client took part in."""
    return max((int(memory.values.get("rounds", 0)) for memory in memories), default=0)


@dataclass(frozen=True, kw_only=True)
class _GaussianRound(Gaussian):
    """The mechanism in one client and round."""

    rounds: int  # of this client, this one among them

    @override
    def keep(self) -> Memory:
        return Memory(values={"rounds": self.rounds})
